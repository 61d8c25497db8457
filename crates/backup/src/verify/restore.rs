//! The scratch cluster that a dump is restored into: unix socket only, its own directory, gone when dropped.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cluster::{Cluster, Running, SUPERUSER};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::VerifyError;
use crate::{
    digest::Measured,
    keys::DecryptionKey,
    pipe::{Giver, pipe},
    program,
    sealed::Opened,
    store::{Rows, count_rows},
};

const PREFIX: &str = "rampart-restore-";
const IN_USE_FILE: &str = "in-use";
const BEING_MADE_MAX: Duration = Duration::from_secs(60);
const PG_RESTORE: &str = "pg_restore";
/// Speed matters, durability does not; nothing but us works in it.
const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("max_connections", "10"),
    ("shared_buffers", "32MB"),
    ("log_min_messages", "fatal"),
];

/// A running scratch cluster.
pub(super) struct Scratch {
    // In this order when dropped: the server ends, then its directory goes.
    server: Running,
    _directory: Directory,
}

/// A directory that says whether its process still lives.
struct Directory {
    path: TempDir,
    // The kernel lets go of it when the process ends, however it ends.
    _in_use: File,
}

/// Removes scratch clusters whose process is gone. A server that outlived it ends when its directory does.
pub(crate) fn sweep(scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let is_abandoned = match File::open(entry.path().join(IN_USE_FILE)) {
            Ok(file) => file.try_lock().is_ok(),
            // Another process may be about to make the file.
            Err(_) => entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > BEING_MADE_MAX),
        };
        if is_abandoned {
            tracing::warn!(path = %entry.path().display(), "removing a scratch cluster that was left behind");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

// === impl Scratch ===

impl Scratch {
    pub(super) async fn start(scratch: &Path) -> Result<Self, VerifyError> {
        let failed = |source| VerifyError::Scratch { path: scratch.to_owned(), source };
        let directory = Directory::make(scratch).map_err(failed)?;
        let cluster = Cluster::open(&directory.cluster(), None, &SETTINGS).await?;
        Ok(Self { server: cluster.start().await?, _directory: directory })
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
        let mut child = match program::spawn(PG_RESTORE, command.stdin(Stdio::piped())) {
            Ok(child) => child,
            Err(error) => return Ok(Err(error.to_string())),
        };
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
        Ok(judge(opened, plain, restored))
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

fn judge(
    opened: io::Result<Measured>,
    plain: Measured,
    restored: Result<(), program::ProgramError>,
) -> Result<(), String> {
    let measured = opened.map_err(|error| format!("cannot be decrypted: {error}"))?;
    if measured != plain {
        return Err("decrypts to something else than was dumped".to_owned());
    }
    restored.map_err(|error| format!("cannot be restored: {error}"))
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
        let in_use = File::create(path.path().join(IN_USE_FILE))?;
        in_use.try_lock().map_err(io::Error::from)?;
        Ok(Self { path, _in_use: in_use })
    }

    fn cluster(&self) -> PathBuf {
        self.path.path().join("cluster")
    }
}
