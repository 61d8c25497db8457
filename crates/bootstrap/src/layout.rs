//! The data directory: who finds what where.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::files::make;

/// Held by whoever uses the directory; also the mark by which we know a directory of ours.
const LOCK: &str = "lock";
const TEMPORARY_PREFIX: &str = "rampart-dev-";
const BEING_MADE_MAX: Duration = Duration::from_secs(60);

/// The directory of one `rampart dev`, kept or temporary.
pub struct Layout {
    root: PathBuf,
    temporary: Mutex<Option<tempfile::TempDir>>,
}

// === impl Layout ===

impl Layout {
    /// Takes (or makes) `kept`, or a temporary directory that goes when this value does.
    pub fn create(kept: Option<&Path>) -> anyhow::Result<Self> {
        let (root, temporary) = match kept {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
                let path = path.canonicalize().with_context(|| format!("cannot enter {}", path.display()))?;
                refuse_foreign(&path)?;
                (path, None)
            }
            None => {
                sweep_leftovers();
                let made =
                    tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir().context("no temporary directory")?;
                (made.path().to_owned(), Some(made))
            }
        };
        let layout = Self { root, temporary: Mutex::new(temporary) };
        layout.lock()?;
        // PostgreSQL runs as somebody else when we are root, and must be able to pass through.
        make(&layout.root, 0o711)?;
        for (name, mode) in [("ca", 0o755), ("identity", 0o755), ("config", 0o700), ("logs", 0o700), ("tokens", 0o700)]
        {
            make(&layout.root.join(name), mode)?;
        }
        for name in ["secrets", "backups"] {
            make(&layout.root.join(name), 0o700)?;
        }
        Ok(layout)
    }

    /// A folder for accounts and their tokens alone, of a platform that keeps everything else itself.
    pub fn of_accounts(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        refuse_foreign(path)?;
        let layout = Self { root: path.to_owned(), temporary: Mutex::new(None) };
        layout.lock()?;
        for name in ["tokens", "secrets"] {
            make(&path.join(name), 0o700)?;
        }
        Ok(layout)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it stays after the end.
    pub fn is_kept(&self) -> bool {
        self.temporary.lock().map(|temporary| temporary.is_none()).unwrap_or(true)
    }

    /// Of a temporary directory, makes the logs stay for whoever has to look at them; keys and secrets go.
    pub fn keep_logs(&self) -> anyhow::Result<PathBuf> {
        let logs = self.root.join("logs");
        if let Ok(mut temporary) = self.temporary.lock()
            && let Some(made) = temporary.take()
        {
            for entry in fs::read_dir(made.keep())?.flatten().filter(|entry| entry.path() != logs) {
                let path = entry.path();
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(logs)
    }

    /// The root CA.
    pub fn ca_file(&self) -> PathBuf {
        self.root.join("ca/ca.pem")
    }

    /// The folder with an instance's certificate.
    pub fn identity(&self, instance: &str) -> PathBuf {
        self.root.join("identity").join(instance)
    }

    /// An instance's configuration.
    pub fn config(&self, instance: &str) -> PathBuf {
        self.root.join("config").join(format!("{instance}.toml"))
    }

    /// An instance's log.
    pub fn log(&self, instance: &str) -> PathBuf {
        self.root.join("logs").join(format!("{instance}.log"))
    }

    /// The folder of [`crate::platform_secrets`].
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// A secret of one service, made before by [`crate::platform_secrets`].
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

    /// Refuses a directory that another `rampart dev` is using. The lock goes with the process.
    fn lock(&self) -> anyhow::Result<()> {
        let path = self.root.join(LOCK);
        let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("{} is in use by another rampart", self.root.display());
        }
        // Held open, and so locked, until the process ends.
        std::mem::forget(file);
        Ok(())
    }
}

/// We set permissions in the data directory and remove what is in our way: not in somebody's home or checkout.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    if entries.next().is_some() && !path.join(LOCK).is_file() {
        bail!("{} holds something else: name a new or empty directory", path.display());
    }
    Ok(())
}

/// Removes temporary directories whose owner was killed before it could: they hold keys. What is in use is locked, and
/// what is not ours cannot be opened.
fn sweep_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        let lock = entry.path().join(LOCK);
        if is_named_so && fs::File::options().write(true).open(lock).is_ok_and(|lock| is_abandoned(&lock)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Nobody holds the lock, and it is not just being made: between the two there is a moment.
fn is_abandoned(lock: &fs::File) -> bool {
    let made = lock.metadata().and_then(|metadata| metadata.modified());
    let is_old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE_MAX));
    is_old && lock.try_lock().is_ok()
}
