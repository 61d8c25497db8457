//! Directories and files with exactly the permissions that they should have.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::Context as _;

/// A directory with exactly this mode.
pub fn make(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot protect {}", path.display()))
}

/// Writes a file that only we can read.
pub fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    secrets::replace_file(path, content.as_bytes(), 0o600, None)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that we can change and a group can read.
pub fn write_for_group(path: &Path, content: &[u8], group: u32) -> anyhow::Result<()> {
    secrets::replace_file(path, content, 0o640, Some(group)).with_context(|| format!("cannot write {}", path.display()))
}
