//! Where a backup is proved by a restore: the scratch cluster that a dump is restored into, on a unix socket only, in its
//! own directory, removed when dropped.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pg_sandbox::{Cluster, RunningCluster, SUPERUSER, end_orphan};
use sha256::Measured;
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::VerifyError;
use crate::{
    encrypted_file::DecryptedReader,
    keys::DecryptionKey,
    pg_program::{self, ProgramError},
    pipe::{PipeWriter, pipe},
    progress::Progress,
    store::{Rows, count_rows},
};

const PREFIX: &str = "rampart-restore-";
const IN_USE_FILE: &str = "in-use";
const CREATION_TIME_MAX: Duration = Duration::from_secs(60);
const PG_RESTORE: &str = "pg_restore";
const CLUSTER_DIRECTORY: &str = "cluster";
/// With less a server cannot go on: it is one segment of its log.
const FREE_BYTES_MIN: u64 = 16 << 20;
/// Speed matters, durability does not; only this process uses it.
const SETTINGS: [(&str, &str); 7] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("max_connections", "10"),
    ("shared_buffers", "32MB"),
    ("log_min_messages", "fatal"),
    // A server that crashed under a dump stays down, so that it is noticed.
    ("restart_after_crash", "off"),
];

/// A running scratch cluster.
pub(super) struct ScratchCluster {
    // In this order when dropped: the server ends, then its directory goes.
    server: RunningCluster,
    directory: ScratchDirectory,
}

/// A directory with a lock that its process holds while it runs.
struct ScratchDirectory {
    path: TempDir,
    // The kernel releases it when the process ends, however it ends.
    _in_use: File,
}

/// Removes scratch clusters whose process is gone, and ends their servers. One that cannot be removed is logged only.
pub(crate) fn remove_orphaned(scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let path = entry?.path();
        let is_scratch = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !is_scratch || !is_abandoned(&path) {
            continue;
        }
        tracing::warn!(path = %path.display(), "removing a scratch cluster whose process is gone");
        end_orphan(&path.join(CLUSTER_DIRECTORY));
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "plaintext of a backup stays: remove this scratch cluster by hand");
        }
    }
    Ok(())
}

fn is_abandoned(path: &Path) -> bool {
    match File::open(path.join(IN_USE_FILE)) {
        Ok(file) => file.try_lock().is_ok(),
        // Another process may be about to create the file.
        Err(_) => {
            let made = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > CREATION_TIME_MAX))
        }
    }
}

// === impl ScratchCluster ===

impl ScratchCluster {
    pub(super) async fn start(scratch: &Path) -> Result<Self, VerifyError> {
        let failed = |source| VerifyError::Scratch { path: scratch.to_owned(), source };
        let directory = ScratchDirectory::make(scratch).map_err(failed)?;
        let cluster = Cluster::open(&directory.cluster(), None, &SETTINGS).await?;
        // Bound: the restored data is plaintext, and the server must not outlive this process.
        Ok(Self { server: cluster.start_bound_to_thread().await?, directory })
    }

    /// Restores a dump into a new database of its name. The inner error is a fault of the set: a reason for `INVALID`.
    pub(super) async fn restore(
        &self,
        database: &str,
        encrypted: &Path,
        key: &DecryptionKey,
        plain: Measured,
        progress: &Progress,
    ) -> Result<Result<(), String>, VerifyError> {
        let quoted = database.replace('"', "\"\"");
        self.server.sql("template1", &format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0")).await?;
        let mut command = pg_program::command(&self.server.binaries().program(PG_RESTORE));
        command.args(["--no-owner", "--no-privileges", "--exit-on-error", "--no-password"]);
        command.arg("--host").arg(self.server.socket_directory());
        command.args(["--username", SUPERUSER, "--dbname", &connection_string(database)]);
        let mut child = pg_program::spawn(PG_RESTORE, command.stdin(Stdio::piped()))?;
        let (pipe_writer, pipe_reader) = pipe();
        let decrypting = tokio::task::spawn_blocking({
            let (encrypted, key, counted) = (encrypted.to_owned(), key.clone(), progress.clone());
            move || decrypt(&encrypted, &key, pipe_writer, &counted)
        });
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let copying = async {
            match stdin {
                // A program that stops reading fails, and its stderr has the reason.
                Some(stdin) => pipe_reader.copy_to(stdin).await.is_ok(),
                None => false,
            }
        };
        let (_copied, error_output) = tokio::join!(copying, pg_program::read_stderr(stderr));
        let restored = pg_program::wait(PG_RESTORE, child, error_output).await;
        let decrypted = decrypting.await.expect("decrypting a file does not panic");
        if let Err(reason) = check_plaintext(decrypted, plain) {
            return Ok(Err(reason));
        }
        match restored {
            Ok(()) => Ok(Ok(())),
            Err(error) => self.classify_failure(error).await.map(Err),
        }
    }

    /// The dump is intact, and cannot be restored: a fault of the set unless the disk is full or the server is down.
    async fn classify_failure(&self, error: ProgramError) -> Result<String, VerifyError> {
        let path = self.directory.path.path();
        if error.is_out_of_room() || free_bytes(path).is_ok_and(|free| free < FREE_BYTES_MIN) {
            return Err(VerifyError::NoRoom { path: path.to_owned(), source: error });
        }
        self.server.sql("template1", "SELECT 1").await?;
        Ok(format!("cannot be restored: {error}"))
    }

    /// The rows of every table of a restored database.
    pub(super) async fn count_rows(&self, database: &str) -> Result<Rows, VerifyError> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.server.socket_directory())
            .username(SUPERUSER)
            .database(database);
        let mut connection = options.connect().await?;
        let rows = count_rows(&mut connection).await?;
        connection.close().await?;
        Ok(rows)
    }
}

fn decrypt(
    encrypted: &Path,
    key: &DecryptionKey,
    pipe_writer: PipeWriter,
    progress: &Progress,
) -> io::Result<Measured> {
    let mut opened = DecryptedReader::open(encrypted, key, progress)?;
    pipe_writer.write_from_blocking(&mut opened)?;
    opened.finish()
}

fn check_plaintext(decrypted: io::Result<Measured>, plain: Measured) -> Result<(), String> {
    let measured = decrypted.map_err(|error| format!("cannot be decrypted: {error}"))?;
    if measured == plain { Ok(()) } else { Err("decrypts to something else than was dumped".to_owned()) }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// `pg_restore` takes a name with `=` or a scheme in it for a connection string, so it gets a whole one.
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

// === impl ScratchDirectory ===

impl ScratchDirectory {
    fn make(scratch: &Path) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch)?;
        // The server may run as another user, which must reach its own directory in here.
        fs::set_permissions(path.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        // Locked before it has its name: an unlocked one counts as abandoned.
        let (unlocked, locked) = (path.path().join("unlocked"), path.path().join(IN_USE_FILE));
        let in_use = File::create(&unlocked)?;
        in_use.try_lock().map_err(io::Error::from)?;
        fs::rename(unlocked, locked)?;
        Ok(Self { path, _in_use: in_use })
    }

    fn cluster(&self) -> PathBuf {
        self.path.path().join(CLUSTER_DIRECTORY)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// Proves that a directory that cannot be removed hinders neither the rest nor the start of a worker, and that those in
    /// use or just being created stay.
    #[test]
    fn removing_orphaned_clusters_goes_on_after_a_failure() {
        let scratch = tempfile::tempdir().unwrap();
        let named = |name: &str| scratch.path().join(format!("{PREFIX}{name}"));
        let long_ago = SystemTime::now() - 2 * CREATION_TIME_MAX;
        // No directory, and so nothing that is removed as one.
        let odd = File::create(named("odd")).unwrap();
        odd.set_modified(long_ago).unwrap();
        for name in ["a", "z"] {
            fs::create_dir_all(named(name).join("cluster/data")).unwrap();
            File::create(named(name).join(IN_USE_FILE)).unwrap();
        }
        fs::create_dir(named("being-made")).unwrap();
        let in_use = ScratchDirectory::make(scratch.path()).unwrap();

        remove_orphaned(scratch.path()).unwrap();
        assert!(!named("a").exists() && !named("z").exists());
        assert!(named("odd").exists() && named("being-made").exists() && in_use.path.path().exists());
    }
}
