//! The folder with a platform's secrets and the access tokens of its accounts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use secrets::make_folder;

/// Locked while the folder is in use. A folder without it was not made by `rampart`.
pub const LOCK_FILE: &str = "lock";

/// `<root>/secrets/<service>/<name>` and `<root>/tokens/<role>.token`. Other files of the platform may lie beside them.
pub struct AccessFolder {
    root: PathBuf,
}

// === impl AccessFolder ===

impl AccessFolder {
    /// Opens the folder, made first where there is none, and locks it until the process ends.
    ///
    /// # Errors
    /// The folder holds something else, or another process uses it.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        refuse_foreign(root)?;
        lock(root)?;
        for name in ["tokens", "secrets"] {
            make_folder(&root.join(name), 0o700)?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of [`crate::platform_secrets`].
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// A secret of one service.
    pub fn secret(&self, service: &str, name: &str) -> PathBuf {
        self.secrets().join(service).join(name)
    }

    /// The access token of the account with this role.
    pub fn token(&self, role: &str) -> PathBuf {
        self.root.join("tokens").join(format!("{role}.token"))
    }

    /// The same token as a header line, for `curl -H @file`: an argument would be public in /proc.
    pub fn header(&self, role: &str) -> PathBuf {
        self.root.join("tokens").join(format!("{role}.header"))
    }
}

/// Permissions below the folder are changed and old files removed, which must not happen to a home or a checkout.
fn refuse_foreign(root: &Path) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    if entries.next().is_some() && !root.join(LOCK_FILE).is_file() {
        bail!("{} holds something else: name a new or empty directory", root.display());
    }
    Ok(())
}

fn lock(root: &Path) -> anyhow::Result<()> {
    let path = root.join(LOCK_FILE);
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("{} is in use by another rampart", root.display());
    }
    // Held open, and so locked, until the process ends.
    std::mem::forget(file);
    Ok(())
}
