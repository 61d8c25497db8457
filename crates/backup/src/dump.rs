//! One database into one encrypted file: `pg_dump` over TLS, streamed, in the snapshot in which its rows are counted.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
};

use database::{DatabaseConfig, DatabaseError};
use pg_sandbox::{Binaries, ClusterError};
use secrets::{SecretError, SecretFile};
use sha256::Measured;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::{
    encrypted_file::EncryptedWriter,
    keys::Recipient,
    manifest::{Content, Object},
    pg_program::{self, ProgramError},
    pipe::{PipeReader, pipe},
    progress::Progress,
    staging::INCOMPLETE_PREFIX,
    store::Snapshot,
};

const PG_DUMP: &str = "pg_dump";

/// Why a database could not be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No `pg_dump` here.
    #[error("cannot dump the database")]
    Programs(#[from] ClusterError),
    /// The connection's files are wrong.
    #[error("cannot connect to the database")]
    Connect(#[from] DatabaseError),
    /// The password or the key of the client certificate cannot be read.
    #[error("no password or key for the database")]
    Password(#[from] SecretError),
    /// A query failed, or the database does not answer.
    #[error("cannot read the database")]
    Query(#[from] sqlx::Error),
    /// `pg_dump` failed.
    #[error("cannot dump the database")]
    Program(#[from] ProgramError),
    /// The output of `pg_dump` ended early, or its password file cannot be written.
    #[error("cannot run pg_dump")]
    Pipe(#[source] io::Error),
    /// The encrypted file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Dumps one database into `directory`. The password is in a file in `private_directory` for as long as it takes.
pub async fn dump(
    config: &DatabaseConfig,
    directory: &Path,
    private_directory: &Path,
    recipient: &Recipient,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Object, DumpError> {
    let binaries = Binaries::find().await?;
    let database = database::connect(config)?;
    let mut snapshot = Snapshot::hold(&database).await?;
    let file_name = format!("database-{}.dump.zst.age", config.name);
    let path = directory.join(&file_name);

    // Created here and not in the thread: dropping this future removes the directory, and no file may be created in it
    // after that.
    let writer = EncryptedWriter::create(&path, recipient, stop, progress)
        .map_err(|source| DumpError::Write { path: path.clone(), source })?;
    let (pipe_writer, pipe_reader) = pipe();
    let encrypting = tokio::task::spawn_blocking(move || encrypt(writer, pipe_reader));
    let password_file = password_file(config, private_directory)?;
    let key_file = key_file(config, private_directory)?;
    let mut command = pg_program::command(&binaries.program(PG_DUMP));
    command.args(["--format=custom", "--compress=0", "--no-password", "--lock-wait-timeout=10s"]);
    command.arg(format!("--snapshot={}", snapshot.name));
    command.arg(format!("--dbname={}", connection_string(config, password_file.path(), key_file.path())));
    let mut child = pg_program::spawn(PG_DUMP, command.stdout(Stdio::piped()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let copying = async {
        match stdout {
            Some(stdout) => pipe_writer.write_from(stdout).await.map_err(DumpError::Pipe),
            None => Ok(()),
        }
    };
    let counting = async { snapshot.count_rows().await.map_err(DumpError::Query) };
    let reading_stderr = async { Ok(pg_program::read_stderr(stderr).await) };
    let ((), rows, error_output) = tokio::try_join!(copying, counting, reading_stderr)?;
    // A failed writer stops reading, and pg_dump then fails for that reason: the writer's own error comes first.
    let dumped = pg_program::wait(PG_DUMP, child, error_output).await;
    if dumped.is_ok() {
        pipe_writer.finish().await;
    } else {
        drop(pipe_writer);
    }
    let encrypted = encrypting.await.expect("encrypting does not panic");
    let (cipher, plain) = match (dumped, encrypted) {
        (Ok(()), Ok(measured)) => measured,
        (Err(error), Err(pipe)) if pipe.kind() == io::ErrorKind::BrokenPipe => return Err(error.into()),
        (_, Err(source)) => return Err(DumpError::Write { path, source }),
        (Err(error), Ok(_)) => return Err(error.into()),
    };
    let server_version = snapshot.server_version;
    let content = Content::Database { database: config.name.clone(), server_version, rows };
    Ok(Object::new(file_name, cipher, plain, content))
}

fn encrypt(mut writer: EncryptedWriter, pipe_reader: PipeReader) -> io::Result<(Measured, Measured)> {
    pipe_reader.copy_to_blocking(&mut writer)?;
    writer.finish()
}

/// The password as libpq reads it, in a file of mode 0600 that is removed with the value: command lines and environments
/// are public.
fn password_file(config: &DatabaseConfig, directory: &Path) -> Result<NamedTempFile, DumpError> {
    let secret = config.password_file.read()?;
    let mut line = b"*:*:*:*:".to_vec();
    for byte in secret.expose() {
        if matches!(byte, b':' | b'\\') {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    private_file("pgpass", &line, directory)
}

/// The key in a file of this process: libpq refuses one that belongs to another user.
fn key_file(config: &DatabaseConfig, directory: &Path) -> Result<NamedTempFile, DumpError> {
    let key = SecretFile::new(&config.key_file).read()?;
    private_file("key", key.expose(), directory)
}

fn private_file(name: &str, content: &[u8], directory: &Path) -> Result<NamedTempFile, DumpError> {
    let prefix = format!("{INCOMPLETE_PREFIX}{name}-");
    let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory).map_err(DumpError::Pipe)?;
    file.write_all(content).map_err(DumpError::Pipe)?;
    Ok(file)
}

/// A connection string of libpq: TLS 1.3, with a server certificate of the platform's CA.
fn connection_string(config: &DatabaseConfig, password_file: &Path, key_file: &Path) -> String {
    let parameters = [
        ("host", config.host.clone()),
        ("port", config.port.to_string()),
        ("user", config.user.clone()),
        ("dbname", config.name.clone()),
        ("sslmode", "verify-full".to_owned()),
        ("sslrootcert", config.ca_file.display().to_string()),
        ("sslcert", config.certificate_file.display().to_string()),
        ("sslkey", key_file.display().to_string()),
        ("ssl_min_protocol_version", "TLSv1.3".to_owned()),
        ("passfile", password_file.display().to_string()),
        ("connect_timeout", "5".to_owned()),
        ("application_name", "rampart-backup".to_owned()),
    ];
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    parameters.map(|(key, value)| format!("{key}='{}'", quoted(&value))).join(" ")
}
