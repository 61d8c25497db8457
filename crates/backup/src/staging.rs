//! A set being built. It appears under its name when it is complete, or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use uuid::Uuid;

use crate::set_name::SetName;

/// Prefix of incomplete sets and private files; they are removed when the root is locked again.
pub const INCOMPLETE_PREFIX: &str = ".incomplete-";
/// Locked while a worker has the root; its content is the id of that worker, which outlives the process.
const LOCK_FILE: &str = ".lock";
/// Bytes of an id as text; more than that in the lock file is no id.
const ID_BYTES: u64 = 36;

/// The root of all sets, locked by this process.
pub struct BackupRoot {
    path: PathBuf,
    worker: Uuid,
    // Held as long as this value lives; the kernel releases it when the process ends, however it ends.
    _lock: File,
}

/// A directory that is removed again unless it is published.
pub struct Staging {
    path: PathBuf,
    is_published: AtomicBool,
}

/// Why the root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Another worker has locked it.
    #[error("another worker uses the backups in {path}: one directory has one worker")]
    Locked {
        /// The root.
        path: PathBuf,
    },
    /// It cannot be made, read or cleaned.
    #[error("cannot use the backup directory {path}")]
    Io {
        /// The root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

// === impl BackupRoot ===

impl BackupRoot {
    /// Locks the root, creating it if need be, and removes what an interrupted run left in it.
    pub fn lock(path: &Path) -> Result<Self, RootError> {
        let failed = |source| RootError::Io { path: path.to_owned(), source };
        make_directory(path).map_err(failed)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK_FILE)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(RootError::Locked { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(INCOMPLETE_PREFIX) {
                tracing::warn!(path = %entry.path().display(), "removing what an interrupted run left behind");
                let is_directory = entry.file_type().map_err(failed)?.is_dir();
                let remove = if is_directory { fs::remove_dir_all } else { fs::remove_file };
                remove(entry.path()).map_err(failed)?;
            }
        }
        let worker = worker_id(&mut lock).map_err(failed)?;
        Ok(Self { path: path.to_owned(), worker, _lock: lock })
    }

    /// The id of the worker that has this root, the same after every restart. Runs and sets belong to it.
    pub fn worker(&self) -> Uuid {
        self.worker
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Free bytes for this process.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// A directory to build a set in.
    pub fn stage(&self, run: Uuid) -> io::Result<Staging> {
        let path = self.path.join(format!("{INCOMPLETE_PREFIX}{run}"));
        // Created before the directory in it, so that a failure between the two leaves nothing.
        let staging = Staging { path, is_published: AtomicBool::new(false) };
        DirBuilder::new().mode(0o700).create(&staging.path)?;
        DirBuilder::new().mode(0o700).create(staging.directory())?;
        Ok(staging)
    }
}

// === impl Staging ===

impl Staging {
    /// Where the files of the set go.
    pub fn directory(&self) -> PathBuf {
        SetName::inside(&self.path)
    }

    /// Writes a small file and forces it to disk.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory().join(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Renames the set to its name, in one step, and syncs that to disk. An existing set is never replaced.
    pub fn publish(&self, root: &BackupRoot, name: &SetName) -> io::Result<()> {
        sync_directory(&self.directory())?;
        sync_directory(&self.path)?;
        fs::rename(&self.path, name.top_directory(root.path()))?;
        self.is_published.store(true, Ordering::Release);
        sync_directory(root.path())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_published.load(Ordering::Acquire) {
            return;
        }
        match fs::remove_dir_all(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot remove an incomplete set; remove it by hand");
            }
        }
    }
}

/// A directory for its owner only, with its parents.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The id in the lock file, or a new one. An id that was written in part by a process that was killed is replaced.
fn worker_id(lock: &mut File) -> io::Result<Uuid> {
    let mut text = String::new();
    let read = lock.take(ID_BYTES).read_to_string(&mut text);
    if let (Ok(_), Ok(id)) = (read, text.parse()) {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    lock.rewind()?;
    lock.set_len(0)?;
    lock.write_all(id.to_string().as_bytes())?;
    lock.sync_all()?;
    Ok(id)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name != LOCK_FILE).collect()
    }

    #[test]
    fn a_dropped_staging_leaves_nothing_and_a_published_one_all() {
        let directory = tempfile::tempdir().unwrap();
        let root = BackupRoot::lock(directory.path()).unwrap();
        let stage = root.stage(Uuid::new_v4()).unwrap();
        stage.write("object", b"x").unwrap();
        drop(stage);
        assert_eq!(names(root.path()), Vec::<String>::new());
        let name: SetName = "ml-data-2026-11-22".parse().unwrap();
        let stage = root.stage(Uuid::new_v4()).unwrap();
        stage.write("object", b"x").unwrap();
        stage.publish(&root, &name).unwrap();
        drop(stage);
        assert_eq!(fs::read(name.directory(root.path()).join("object")).unwrap(), b"x");
        assert_eq!(SetName::list(root.path()).unwrap(), vec![name.clone()]);
        let again = root.stage(Uuid::new_v4()).unwrap();
        again.write("object", b"y").unwrap();
        assert!(again.publish(&root, &name).is_err());
        drop(again);
        assert_eq!(fs::read(name.directory(root.path()).join("object")).unwrap(), b"x");
        assert_eq!(names(root.path()), ["2026-11-22"]);
    }

    #[test]
    fn a_root_has_one_worker_and_the_next_removes_its_incomplete_sets() {
        let directory = tempfile::tempdir().unwrap();
        let root = BackupRoot::lock(directory.path()).unwrap();
        assert!(matches!(BackupRoot::lock(directory.path()), Err(RootError::Locked { .. })));
        // As kill -9 leaves it.
        std::mem::forget(root.stage(Uuid::new_v4()).unwrap());
        let worker = root.worker();
        drop(root);
        assert_eq!(names(directory.path()).len(), 1);
        assert_eq!(BackupRoot::lock(directory.path()).unwrap().worker(), worker, "runs are found again by it");
        assert_eq!(names(directory.path()), Vec::<String>::new());
        fs::write(directory.path().join(LOCK_FILE), "half an i").unwrap();
        let another = BackupRoot::lock(directory.path()).unwrap().worker();
        assert_ne!(another, worker);
        assert_eq!(BackupRoot::lock(directory.path()).unwrap().worker(), another);
    }
}
