//! Files that are replaced whole.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// A file or folder that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct WriteError {
    /// Which.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

/// Writes beside the file and renames, so that a reader never sees half of one.
///
/// `mode` is exact; `group`, if given, is the file's group before anything is in it that the group may read.
///
/// # Errors
/// The folder cannot be written, or the process may not give files to the group.
pub fn replace_file(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> Result<(), WriteError> {
    write_and_rename(path, content, mode, group).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Makes a folder where there is none, and gives it exactly this mode.
///
/// # Errors
/// The folder around it cannot be written, or it belongs to another user.
pub fn make_folder(path: &Path, mode: u32) -> Result<(), WriteError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|source| WriteError { path: path.to_owned(), source })
}

fn write_and_rename(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    if group.is_some() {
        chown(file.path(), None, group)?;
    }
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, mode) in [(&b"old"[..], 0o600), (b"new", 0o640)] {
            replace_file(&path, content, mode, None).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
