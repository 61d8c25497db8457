//! The models folder as one tar archive, and the digests of an archive.
//!
//! Only regular files in directories: a link or a device in a models folder is refused.

use sha256::{Measured, Measuring};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use crate::manifest::ModelFile;

/// Files of one folder.
const FILES_MAX: usize = 100_000;
/// Directories in directories.
const DEPTH_MAX: usize = 16;

/// Why a models folder cannot be archived.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A file or directory cannot be read, or changed while it was.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a regular file nor a directory.
    #[error("{path} is neither a file nor a directory; a models folder holds nothing else")]
    Special {
        /// Which.
        path: PathBuf,
    },
    /// A name that is not UTF-8.
    #[error("{path} is not UTF-8")]
    Name {
        /// Which.
        path: PathBuf,
    },
    /// More files or levels than allowed.
    #[error("the models folder has more than {FILES_MAX} files or {DEPTH_MAX} levels")]
    TooMany,
    /// The archive cannot be written.
    #[error("cannot write the models archive")]
    Write(#[source] io::Error),
}

/// Writes the folder as tar, and answers its files with their digests.
pub fn archive(folder: &Path, into: &mut impl Write) -> Result<Vec<ModelFile>, ModelsError> {
    let mut builder = tar::Builder::new(into);
    let mut files = Vec::new();
    for path in list(folder)? {
        files.push(append(&mut builder, folder, &path)?);
    }
    builder.finish().map_err(ModelsError::Write)?;
    Ok(files)
}

/// Reads an archive to its end and measures every file in it. Nothing is written anywhere.
pub fn measure(archive: impl Read) -> io::Result<BTreeMap<String, Measured>> {
    let mut archive = tar::Archive::new(archive);
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_str().map(str::to_owned);
        let path = path.filter(|_| entry.header().entry_type().is_file());
        let path = path.ok_or_else(|| io::Error::other("the archive holds something that is no plain file"))?;
        let mut measured = Measuring::new(&mut entry);
        io::copy(&mut measured, &mut io::sink())?;
        if files.insert(path, measured.finish().0).is_some() {
            return Err(io::Error::other("the archive holds a file twice"));
        }
    }
    Ok(files)
}

/// Every file below the folder, sorted, relative to it.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ModelsError> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        if directory.components().count() > DEPTH_MAX || files.len() > FILES_MAX {
            return Err(ModelsError::TooMany);
        }
        let absolute = folder.join(&directory);
        for entry in fs::read_dir(&absolute).map_err(unreadable(&absolute))? {
            let entry = entry.map_err(unreadable(&absolute))?;
            let kind = entry.file_type().map_err(unreadable(&entry.path()))?;
            let relative = directory.join(entry.file_name());
            if kind.is_dir() {
                open.push(relative);
            } else if kind.is_file() {
                files.push(relative);
            } else {
                return Err(ModelsError::Special { path: entry.path() });
            }
        }
    }
    files.sort();
    Ok(files)
}

fn append(builder: &mut tar::Builder<impl Write>, folder: &Path, relative: &Path) -> Result<ModelFile, ModelsError> {
    let absolute = folder.join(relative);
    let name = name_of(relative).ok_or_else(|| ModelsError::Name { path: absolute.clone() })?;
    let file = File::open(&absolute).map_err(unreadable(&absolute))?;
    let metadata = file.metadata().map_err(unreadable(&absolute))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(metadata.len());
    header.set_mode(0o644);
    let mut content = Measuring::new(file.take(metadata.len()));
    builder.append_data(&mut header, relative, &mut content).map_err(ModelsError::Write)?;
    let (Measured { size, sha256 }, _) = content.finish();
    if size != metadata.len() {
        let shrunk = io::Error::other("the file became shorter while it was read");
        return Err(unreadable(&absolute)(shrunk));
    }
    Ok(ModelFile { path: name, size, sha256 })
}

fn name_of(relative: &Path) -> Option<String> {
    let parts = relative.components().map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    parts.collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ModelsError {
    let path = path.to_owned();
    move |source| ModelsError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha256::Sha256Digest;

    #[test]
    fn an_archive_has_the_files_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let deep = format!("forest/{}/model.onnx", "long-".repeat(40));
        for (path, bytes) in [("forest/model.toml", &b"name"[..]), (&deep, &[7; 100_000]), ("empty", b"")] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let mut tar = Vec::new();
        let files = archive(folder.path(), &mut tar).unwrap();
        let found = measure(&tar[..]).unwrap();
        assert_eq!(files.len(), 3);
        for file in files {
            assert_eq!(found[&file.path], Measured { size: file.size, sha256: file.sha256 });
        }
        assert_eq!(found["forest/model.toml"].sha256, Sha256Digest::of(b"name"));
        // Same folder, same bytes: the archive has neither times nor owners.
        let mut again = Vec::new();
        archive(folder.path(), &mut again).unwrap();
        assert_eq!(tar, again);
    }

    #[test]
    fn link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("model.onnx")).unwrap();
        assert!(matches!(archive(folder.path(), &mut Vec::new()), Err(ModelsError::Special { .. })));
    }

    #[test]
    fn folder_that_is_not_there_is_an_error() {
        assert!(matches!(archive(Path::new("/nowhere/models"), &mut Vec::new()), Err(ModelsError::Read { .. })));
    }
}
