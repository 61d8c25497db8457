//! Directories and files with exactly the permissions that they should have, written whole or not at all.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use anyhow::Context as _;

/// A directory with exactly this mode.
pub(crate) fn make(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot protect {}", path.display()))
}

/// Writes a file that only we can read.
pub(crate) fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    write(path, content.as_bytes(), 0o600, None).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that we can change and a group can read.
pub(crate) fn write_for_group(path: &Path, content: &[u8], group: u32) -> anyhow::Result<()> {
    write(path, content, 0o640, Some(group)).with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> std::io::Result<()> {
    // Beside it and renamed, so that a reader never sees half of it.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    if group.is_some() {
        chown(file.path(), None, group)?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
