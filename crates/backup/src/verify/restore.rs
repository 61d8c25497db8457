//! The scratch cluster that a dump is restored into: unix socket only, its own directory, gone when dropped.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pg_sandbox::{Cluster, RunningCluster, SUPERUSER, end_orphan};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::VerifyError;
use crate::{
    digest::Measured,
    keys::DecryptionKey,
    pipe::{Giver, pipe},
    program::{self, ProgramError},
    sealed::Opened,
    store::{Rows, count_rows},
};

const PREFIX: &str = "rampart-restore-";
const IN_USE_FILE: &str = "in-use";
const BEING_MADE_MAX: Duration = Duration::from_secs(60);
const PG_RESTORE: &str = "pg_restore";
const CLUSTER_DIRECTORY: &str = "cluster";
/// With less the disk is full for a server: it is one segment of its log.
const FREE_BYTES_MIN: u64 = 16 << 20;
/// Speed matters, durability does not; nothing but us works in it.
const SETTINGS: [(&str, &str); 7] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("max_connections", "10"),
    ("shared_buffers", "32MB"),
    ("log_min_messages", "fatal"),
    // A server that crashed under a dump stays away, and that is seen.
    ("restart_after_crash", "off"),
];

/// A running scratch cluster.
pub(super) struct Scratch {
    // In this order when dropped: the server ends, then its directory goes.
    server: RunningCluster,
    directory: Directory,
}

/// A directory that says whether its process still lives.
struct Directory {
    path: TempDir,
    // The kernel lets go of it when the process ends, however it ends.
    _in_use: File,
}

/// Removes scratch clusters whose process is gone, and ends their servers. What cannot be removed is no reason not to begin.
pub(crate) fn sweep(scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let path = entry?.path();
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !is_ours || !is_abandoned(&path) {
            continue;
        }
        tracing::warn!(path = %path.display(), "removing a scratch cluster that was left behind");
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
        // Another process may be about to make the file.
        Err(_) => {
            let made = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE_MAX))
        }
    }
}

// === impl Scratch ===

impl Scratch {
    pub(super) async fn start(scratch: &Path) -> Result<Self, VerifyError> {
        let failed = |source| VerifyError::Scratch { path: scratch.to_owned(), source };
        let directory = Directory::make(scratch).map_err(failed)?;
        let cluster = Cluster::open(&directory.cluster(), None, &SETTINGS).await?;
        // Tied: what is restored is in the clear, and no server of ours may hold it longer than we live.
        Ok(Self { server: cluster.start_bound_to_thread().await?, directory })
    }

    /// Restores a dump into a fresh database of its name. The inner error is the set's fault: a reason for `INVALID`.
    pub(super) async fn restore(
        &self,
        database: &str,
        sealed: &Path,
        key: &DecryptionKey,
        plain: Measured,
    ) -> Result<Result<(), String>, VerifyError> {
        let quoted = database.replace('"', "\"\"");
        self.server.sql("template1", &format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0")).await?;
        let mut command = program::command(&self.server.binaries().program(PG_RESTORE));
        command.args(["--no-owner", "--no-privileges", "--exit-on-error", "--no-password"]);
        command.arg("--host").arg(self.server.socket_directory());
        command.args(["--username", SUPERUSER, "--dbname", &connection_string(database)]);
        let mut child = program::spawn(PG_RESTORE, command.stdin(Stdio::piped()))?;
        let (giver, taker) = pipe();
        let opening = tokio::task::spawn_blocking({
            let (sealed, key) = (sealed.to_owned(), key.clone());
            move || open(&sealed, &key, giver)
        });
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let feeding = async {
            match stdin {
                // A program that stops reading complains, and its complaint is what counts.
                Some(stdin) => taker.take_all(stdin).await.is_ok(),
                None => false,
            }
        };
        let (_fed, complaint) = tokio::join!(feeding, program::complaint(stderr));
        let restored = program::wait(PG_RESTORE, child, complaint).await;
        let opened = opening.await.expect("opening a sealed file does not panic");
        if let Err(reason) = judge(opened, plain) {
            return Ok(Err(reason));
        }
        match restored {
            Ok(()) => Ok(Ok(())),
            Err(error) => self.blame(error).await.map(Err),
        }
    }

    /// The dump is as it was made, and cannot be restored: the set's fault only if nothing here is to blame.
    async fn blame(&self, error: ProgramError) -> Result<String, VerifyError> {
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

fn open(sealed: &Path, key: &DecryptionKey, giver: Giver) -> io::Result<Measured> {
    let mut opened = Opened::open(sealed, key)?;
    giver.give_all_blocking(&mut opened)?;
    opened.finish()
}

fn judge(opened: io::Result<Measured>, plain: Measured) -> Result<(), String> {
    let measured = opened.map_err(|error| format!("cannot be decrypted: {error}"))?;
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

// === impl Directory ===

impl Directory {
    fn make(scratch: &Path) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch)?;
        // The server may run as somebody else, who must get to its own directory in here.
        fs::set_permissions(path.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        // Locked before it has its name: whoever finds it unlocked may take it for abandoned.
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

    /// Proves that one thing that cannot be removed keeps neither the rest nor the start of a worker, and that what is in use
    /// or just being made stays.
    #[test]
    fn sweep_goes_on_after_what_it_cannot_remove() {
        let scratch = tempfile::tempdir().unwrap();
        let named = |name: &str| scratch.path().join(format!("{PREFIX}{name}"));
        let long_ago = SystemTime::now() - 2 * BEING_MADE_MAX;
        // No directory, and so nothing that is removed as one.
        let odd = File::create(named("odd")).unwrap();
        odd.set_modified(long_ago).unwrap();
        for name in ["a", "z"] {
            fs::create_dir_all(named(name).join("cluster/data")).unwrap();
            File::create(named(name).join(IN_USE_FILE)).unwrap();
        }
        fs::create_dir(named("being-made")).unwrap();
        let in_use = Directory::make(scratch.path()).unwrap();

        sweep(scratch.path()).unwrap();
        assert!(!named("a").exists() && !named("z").exists());
        assert!(named("odd").exists() && named("being-made").exists() && in_use.path.path().exists());
    }
}
