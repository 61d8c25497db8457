//! Files that are replaced whole.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

/// Writes beside the file and renames, so that a reader never sees half of one.
///
/// `mode` is exact; `group`, if given, is the file's group before anything is in it that the group may read.
///
/// # Errors
/// The folder cannot be written, or the process may not give files to the group.
pub fn replace_file(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
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
    use std::fs;

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
