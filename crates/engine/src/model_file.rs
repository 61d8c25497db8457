//! A model file, read once and judged before anything else sees it.

mod format;
pub(crate) mod graph;
mod messages;
pub(crate) mod zipmap;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use sha256::Sha256Digest;

use crate::fault::{LoadFault, Reason};
pub(crate) use format::check_onnx;

/// The file of a model in the folder of its version.
pub(crate) const MODEL: &str = "model.onnx";
/// The longest name of a file with weights.
const DATA_NAME_BYTES_MAX: usize = 128;

/// What the files of a version must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigests {
    /// Of `model.onnx`.
    pub model: Sha256Digest,
    /// Of the files beside it that hold its weights (ONNX: external data), by their names.
    pub data: BTreeMap<String, Sha256Digest>,
}

// === impl FileDigests ===

impl FileDigests {
    /// The digest of all files together: the model's own, or if there are others, that of the lines that `sha256sum` writes of them, sorted
    /// by name.
    pub fn whole(&self) -> Sha256Digest {
        if self.data.is_empty() {
            return self.model;
        }
        let mut files: BTreeMap<&str, Sha256Digest> =
            self.data.iter().map(|(name, digest)| (&**name, *digest)).collect();
        files.insert(MODEL, self.model);
        let lines: String = files.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        Sha256Digest::of(lines.as_bytes())
    }
}

/// Whether a file beside a model may have this name: one harmless file in the version's folder.
pub fn is_data_name(name: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | ':' | '=' | ' ');
    let is_other = matches!(name, MODEL | "golden.json");
    (1..=DATA_NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(harmless) && !is_other
}

/// Opens a file of a version folder, which must be no link: a backup has what is in the folder, not what it points to.
pub(crate) fn open(folder: &Path, name: &str) -> io::Result<File> {
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(folder.join(name));
    let file = opened.map_err(|error| if error.raw_os_error() == Some(libc::ELOOP) { link() } else { error })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("is not a file")) }
}

/// The text of a file of a models folder, which must be no link, no folder and no pipe, and not longer than this.
pub fn read_text(folder: &Path, name: &str, bytes_max: u64) -> io::Result<String> {
    let bytes = read_from_start(&open(folder, name)?, bytes_max)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Refuses a folder that is a link.
pub fn refuse_link(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_symlink() { Err(link()) } else { Ok(()) }
}

fn link() -> io::Error {
    io::Error::other("is a symbolic link; put the file or folder itself there, since a backup has nothing else")
}

/// Reads a model file from its start: not too large, ONNX by its bytes, and the file that was declared.
pub(crate) fn read(file: &File, declared: Sha256Digest, bytes_max: u64) -> Result<Vec<u8>, LoadFault> {
    let bytes = read_bounded(file, MODEL, bytes_max)?;
    // What kind of file it is says more than that its digest is wrong.
    check_onnx(&bytes).map_err(|detail| LoadFault::new(Reason::Format, format!("{MODEL}: {detail}")))?;
    check_digest(&bytes, MODEL, declared)?;
    Ok(bytes)
}

/// The same for a file with weights of it.
pub(crate) fn read_data(file: &File, name: &str, declared: Sha256Digest, bytes_max: u64) -> Result<Vec<u8>, LoadFault> {
    let bytes = read_bounded(file, name, bytes_max)?;
    check_digest(&bytes, name, declared)?;
    Ok(bytes)
}

fn read_bounded(file: &File, name: &str, bytes_max: u64) -> Result<Vec<u8>, LoadFault> {
    let bytes = read_from_start(file, bytes_max).map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > bytes_max {
        let detail = format!("{name}: with it the model has more than the bytes of models.file_bytes_max");
        return Err(LoadFault::new(Reason::Artifact, detail));
    }
    Ok(bytes)
}

fn check_digest(bytes: &[u8], name: &str, declared: Sha256Digest) -> Result<(), LoadFault> {
    let found = Sha256Digest::of(bytes);
    if found == declared {
        return Ok(());
    }
    let detail = format!("{name}: its SHA-256 is {found}, but model.toml declares {declared}");
    Err(LoadFault::new(Reason::Digest, detail))
}

/// Reads a file from its start, wherever others are in it. One byte more than allowed, so that a file that is too long is noticed.
pub(crate) fn read_from_start(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(bytes_max).saturating_add(1);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

pub(crate) fn unreadable(name: &str, error: &io::Error) -> LoadFault {
    LoadFault::new(Reason::Artifact, format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_have_one_digest() {
        let (a, b) = (Sha256Digest::of(b"a"), Sha256Digest::of(b"b"));
        let alone = FileDigests { model: a, data: BTreeMap::new() };
        assert_eq!(alone.whole(), a);
        let with_data = FileDigests { model: a, data: BTreeMap::from([("weights.bin".to_owned(), b)]) };
        assert_eq!(with_data.whole(), Sha256Digest::of(format!("{a}  model.onnx\n{b}  weights.bin\n").as_bytes()));
    }

    #[test]
    fn weights_lie_beside_their_model() {
        for name in ["model.onnx.data", "onnx__MatMul_12", "a b", "w:0"] {
            assert!(is_data_name(name), "{name}");
        }
        for name in ["", "..", ".hidden", "a/b", "/etc/passwd", "model.onnx", "golden.json", "a\0", &"a".repeat(129)] {
            assert!(!is_data_name(name), "{name}");
        }
    }

    #[test]
    fn links_and_folders_are_no_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plain"), "x").unwrap();
        std::os::unix::fs::symlink("plain", folder.path().join("linked")).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let refused = |name: &str| open(folder.path(), name).unwrap_err().to_string();
        assert!(open(folder.path(), "plain").is_ok());
        assert_eq!(read_text(folder.path(), "plain", 1).unwrap(), "x");
        assert!(read_text(folder.path(), "plain", 0).is_err());
        // A pipe that is opened for reading waits for its writer.
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), 0o600.into()).unwrap();
        assert!(refused("pipe").contains("is not a file"));
        assert!(refused("linked").contains("symbolic link"));
        assert!(refused("folder").contains("is not a file"));
        assert!(
            refuse_link(&folder.path().join("linked")).is_err() && refuse_link(&folder.path().join("folder")).is_ok()
        );
    }
}
