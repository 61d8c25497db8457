//! A secret that lies in a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Secret;

/// The largest secret file that is read.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Permission bits that let others than the owner reach a file of this account.
const OTHERS_ACCESS: u32 = 0o077;

/// The same for a file of another account, readable through the process's group (PostgreSQL's rule for keys).
const OTHERS_ACCESS_VIA_GROUP: u32 = 0o037;

/// Where a secret lies; in a configuration file simply the path as a string.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub struct SecretFile {
    path: PathBuf,
}

/// Why a secret file was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing or unreadable.
    #[error("cannot read secret file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("secret file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or write it, or its group may; the group of another account's file may read it.
    #[error("secret file {path} has mode {mode:04o}, others can reach it; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing in it, or nothing but a line break.
    #[error("secret file {path} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Larger than [`SECRET_BYTES_MAX`].
    #[error("secret file {path} is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

// === impl SecretFile ===

impl SecretFile {
    /// The secret that lies at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret as it is now, without one trailing line break. Blocks for a small local file.
    pub fn read(&self) -> Result<Secret, SecretError> {
        // Checked before it is opened, because opening a pipe waits for a writer; and again after, because only the
        // opened file is the one that is read.
        let named = std::fs::metadata(&self.path).map_err(|source| self.unreadable(source))?;
        if !named.is_file() {
            return Err(SecretError::NotAFile { path: self.path.clone() });
        }
        let file = File::open(&self.path).map_err(|source| self.unreadable(source))?;
        let opened = file.metadata().map_err(|source| self.unreadable(source))?;
        let mode = opened.permissions().mode() & 0o7777;
        if is_exposed(mode, opened.uid() == rustix::process::geteuid().as_raw()) {
            return Err(SecretError::Exposed { path: self.path.clone(), mode });
        }
        self.read_opened(&file)
    }

    fn read_opened(&self, file: &File) -> Result<Secret, SecretError> {
        // Room for the largest file at once: growing would leave copies behind that are not wiped.
        let capacity = usize::try_from(SECRET_BYTES_MAX + 1).expect("64 KiB fits every address space");
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| self.unreadable(source))?;
        if bytes.len() == capacity {
            return Err(SecretError::TooLarge { path: self.path.clone() });
        }
        let value = without_line_break(&bytes);
        if value.is_empty() {
            return Err(SecretError::Empty { path: self.path.clone() });
        }
        Ok(Secret::new(value))
    }

    fn unreadable(&self, source: io::Error) -> SecretError {
        SecretError::Read { path: self.path.clone(), source }
    }
}

impl From<PathBuf> for SecretFile {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

fn is_exposed(mode: u32, is_owner: bool) -> bool {
    let foreign = if is_owner { OTHERS_ACCESS } else { OTHERS_ACCESS_VIA_GROUP };
    mode & foreign != 0
}

/// Editors and `echo` end a file with one line break; more than one is part of the secret.
fn without_line_break(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn written(bytes: &[u8], mode: u32) -> (tempfile::TempDir, SecretFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, SecretFile::new(path))
    }

    #[test]
    fn one_line_break_is_trimmed_and_no_more() {
        for (content, value) in [(&b"pa ss\n"[..], &b"pa ss"[..]), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b"a", b"a")] {
            let (_directory, file) = written(content, 0o600);
            assert_eq!(file.read().unwrap().expose(), value);
        }
    }

    #[test]
    fn a_file_that_others_can_reach_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620, 0o660, 0o777] {
            let (_directory, file) = written(b"a", mode);
            let message = file.read().unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{mode:o}: {message}");
        }
        let (_directory, file) = written(b"a", 0o400);
        assert!(file.read().is_ok());
    }

    #[test]
    fn only_files_of_another_account_may_be_readable_by_the_group() {
        assert!(!is_exposed(0o640, false) && is_exposed(0o640, true));
        for mode in [0o644, 0o660, 0o650, 0o604, 0o777] {
            assert!(is_exposed(mode, false), "{mode:o}");
        }
    }

    #[test]
    fn empty_missing_and_irregular_files_are_refused() {
        let (directory, file) = written(b"\n", 0o600);
        assert!(matches!(file.read(), Err(SecretError::Empty { .. })));
        assert!(matches!(SecretFile::new(directory.path()).read(), Err(SecretError::NotAFile { .. })));
        assert!(matches!(SecretFile::new(directory.path().join("no")).read(), Err(SecretError::Read { .. })));
    }

    #[test]
    fn the_limit_is_read_and_one_past_it_is_refused() {
        let limit = usize::try_from(SECRET_BYTES_MAX).unwrap();
        let (_directory, file) = written(&vec![b'a'; limit], 0o600);
        assert_eq!(file.read().unwrap().expose().len(), limit);
        let (_directory, file) = written(&vec![b'a'; limit + 1], 0o600);
        assert!(matches!(file.read(), Err(SecretError::TooLarge { .. })));
    }

    #[test]
    fn configuration_names_it_by_a_plain_string() {
        let file: SecretFile = serde_json::from_str("\"secrets/password\"").unwrap();
        assert_eq!(file.path(), Path::new("secrets/password"));
    }
}
