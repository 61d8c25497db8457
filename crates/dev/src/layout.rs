//! The data directory: which file lies where.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bootstrap::access_folder::{AccessFolder, LOCK_FILE};
use secrets::make_folder;

const TEMPORARY_PREFIX: &str = "rampart-dev-";
/// Of PostgreSQL, in the data directory.
pub(crate) const CLUSTER_FOLDER: &str = "postgres";
const BEING_MADE_MAX: Duration = Duration::from_secs(60);

/// The directory of one `rampart dev`, kept or temporary.
pub(crate) struct Layout {
    pub(crate) access: AccessFolder,
    temporary: Option<tempfile::TempDir>,
}

/// A link to the state file, which goes when this value does.
pub(crate) struct StateLink {
    link: PathBuf,
    state: PathBuf,
}

// === impl Layout ===

impl Layout {
    /// Takes (or makes) `kept`, or a temporary directory that goes when this value does.
    pub(crate) fn create(kept: Option<&Path>) -> anyhow::Result<Self> {
        let (root, temporary) = match kept {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
                (path.canonicalize().with_context(|| format!("cannot enter {}", path.display()))?, None)
            }
            None => {
                remove_abandoned();
                let made =
                    tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir().context("no temporary directory")?;
                (made.path().to_owned(), Some(made))
            }
        };
        let access = AccessFolder::open(&root)?;
        // Under root, PostgreSQL runs as another user and must be able to pass through.
        make_folder(&root, 0o711)?;
        let private = ["config", "logs", "backups", "desired-state"].map(|name| (name, 0o700));
        for (name, mode) in [("ca", 0o755), ("identity", 0o755)].into_iter().chain(private) {
            make_folder(&root.join(name), mode)?;
        }
        Ok(Self { access, temporary })
    }

    pub(crate) fn root(&self) -> &Path {
        self.access.root()
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// Of a temporary directory, keeps the logs for the search for the fault; keys and secrets go.
    pub(crate) fn keep_logs(self) -> anyhow::Result<PathBuf> {
        let logs = self.root().join("logs");
        if let Some(made) = self.temporary {
            for entry in fs::read_dir(made.keep())?.flatten().filter(|entry| entry.path() != logs) {
                let path = entry.path();
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(logs)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.root().join("ca/ca.pem")
    }

    pub(crate) fn identity(&self, instance: &str) -> PathBuf {
        self.root().join("identity").join(instance)
    }

    pub(crate) fn config(&self, instance: &str) -> PathBuf {
        self.root().join("config").join(format!("{instance}.toml"))
    }

    /// Where a replica remembers which models should serve: the models themselves all replicas share.
    pub(crate) fn desired_state(&self, instance: &str) -> PathBuf {
        self.root().join("desired-state").join(format!("{instance}.json"))
    }

    pub(crate) fn log(&self, instance: &str) -> PathBuf {
        self.root().join("logs").join(format!("{instance}.log"))
    }
}

// === impl StateLink ===

impl StateLink {
    /// Points `link` at the state file; the platform that was started last is the one that is meant.
    pub(crate) fn make(link: &Path, state: &Path) -> anyhow::Result<Self> {
        let beside = link.with_extension(format!("{}.part", std::process::id()));
        std::os::unix::fs::symlink(state, &beside)
            .and_then(|()| fs::rename(&beside, link))
            .with_context(|| format!("cannot make the link {}", link.display()))?;
        Ok(Self { link: link.to_owned(), state: state.to_owned() })
    }
}

impl Drop for StateLink {
    fn drop(&mut self) {
        // Another platform may have been started since then, and the link be its.
        if fs::read_link(&self.link).is_ok_and(|state| state == self.state) {
            let _gone = fs::remove_file(&self.link);
        }
    }
}

/// Removes temporary directories of processes that were killed: they hold keys. One in use is locked, and one of another
/// user cannot be opened.
fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        let lock = entry.path().join(LOCK_FILE);
        if is_named_so && fs::File::options().write(true).open(lock).is_ok_and(|lock| is_abandoned(&lock)) {
            pg_sandbox::end_orphan(&entry.path().join(CLUSTER_FOLDER));
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The lock is free, and the file is not new: a process that starts makes it a moment before it locks it.
fn is_abandoned(lock: &fs::File) -> bool {
    let made = lock.metadata().and_then(|metadata| metadata.modified());
    let is_old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE_MAX));
    is_old && lock.try_lock().is_ok()
}
