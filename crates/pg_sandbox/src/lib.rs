#![doc = include_str!("../README.md")]

mod account;
mod binaries;
mod die_with_parent;
mod environment;
mod orphan;
mod running_cluster;
mod sockets;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

pub use account::Account;
pub use binaries::Binaries;
pub use die_with_parent::die_with_parent;
pub use environment::without_settings;
pub use orphan::end_orphan;
pub use running_cluster::RunningCluster;

/// The superuser of every cluster made here.
pub const SUPERUSER: &str = "postgres";

/// Names the directory of sockets, in the cluster's directory, for `end_orphan`. The server's own file knows it only once the
/// server listens.
const SOCKETS_FILE: &str = "sockets";
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a cluster could not be made, started or asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL server programs found (looked for initdb by pg_config and in /usr/lib/postgresql): install the package postgresql"
    )]
    NotInstalled,
    /// The process is root's and there is no account to run the server as.
    #[error(
        "running as root, and /etc/passwd has no unprivileged account to run PostgreSQL as: install the package postgresql"
    )]
    NoAccount,
    /// A file or directory could not be made.
    #[error("cannot prepare {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process is root's, and the account that the server runs as does not get to its directory.
    #[error(
        "user {user}, as which PostgreSQL runs, may not pass through {path}: let others pass (chmod o+x), or put the cluster elsewhere"
    )]
    Impassable {
        /// The outermost directory that keeps it out.
        path: PathBuf,
        /// The account's user id.
        user: u32,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Program {
        /// initdb, psql, …
        program: String,
        /// What it printed.
        output: String,
    },
    /// Something took too long.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What.
        what: String,
        /// How long it may take.
        limit: Duration,
    },
}

/// How a cluster listens on TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Where.
    pub address: SocketAddr,
    /// PEM files: the server's chain, its key, and the CA for client certificates. They are copied.
    pub certificate_file: PathBuf,
    /// See `certificate_file`.
    pub key_file: PathBuf,
    /// See `certificate_file`.
    pub ca_file: PathBuf,
}

/// A cluster on disk, running or not.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    account: Account,
    directory: PathBuf,
    socket: tempfile::TempDir,
    tcp: Option<Tcp>,
    settings: Vec<(String, String)>,
}

// === impl Cluster ===

impl Cluster {
    /// Makes the cluster in `directory`, or takes the one that is there, which no living process has open. `settings` go to the server's command line.
    ///
    /// # Errors
    /// PostgreSQL is missing, the directory cannot be used by the account, or initdb fails.
    pub async fn open(directory: &Path, tcp: Option<Tcp>, settings: &[(&str, &str)]) -> Result<Self, ClusterError> {
        let binaries = Binaries::find().await?;
        let account = Account::for_server()?;
        let socket = sockets::make(account)?;
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let cluster = Self { binaries, account, directory: directory.to_owned(), socket, tcp, settings };
        cluster.prepare().await?;
        Ok(cluster)
    }

    /// The programs this cluster runs with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The account that the server runs as.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The directory of the unix socket, for `host=` of a superuser's connection.
    pub fn socket_directory(&self) -> &Path {
        self.socket.path()
    }

    /// The server program and its arguments, for a caller that supervises it.
    pub fn server(&self) -> (PathBuf, Vec<String>) {
        let mut arguments = vec!["-D".to_owned(), self.data().display().to_string()];
        let mut set = |key: &str, value: &str| arguments.extend(["-c".to_owned(), format!("{key}={value}")]);
        set("unix_socket_directories", &self.socket.path().display().to_string());
        set("unix_socket_permissions", "0700");
        match &self.tcp {
            Some(tcp) => {
                set("listen_addresses", &tcp.address.ip().to_string());
                set("port", &tcp.address.port().to_string());
                set("ssl", "on");
                set("ssl_cert_file", "server.crt");
                set("ssl_key_file", "server.key");
                set("ssl_ca_file", "root.crt");
                set("ssl_min_protocol_version", "TLSv1.3");
                set("password_encryption", "scram-sha-256");
            }
            None => set("listen_addresses", ""),
        }
        for (key, value) in &self.settings {
            set(key, value);
        }
        (self.binaries.program("postgres"), arguments)
    }

    /// Starts the server and waits until it answers. It dies with the returned value.
    ///
    /// # Errors
    /// It does not start, or not in time.
    pub async fn start(self) -> Result<RunningCluster, ClusterError> {
        let (program, _) = self.server();
        RunningCluster::start(self, std::process::Command::new(program)).await
    }

    /// The same, and the kernel kills the server also when the calling thread ends; see [`die_with_parent`].
    ///
    /// # Errors
    /// It does not start, or not in time.
    pub async fn start_bound_to_thread(self) -> Result<RunningCluster, ClusterError> {
        let (program, _) = self.server();
        RunningCluster::start(self, die_with_parent(&program)).await
    }

    /// Waits until the server answers on its unix socket.
    ///
    /// # Errors
    /// It did not within `limit`.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), ClusterError> {
        let asking = async {
            while self.sql("postgres", "SELECT 1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(limit, asking)
            .await
            .map_err(|_| ClusterError::TimedOut { what: "the start of PostgreSQL".into(), limit })
    }

    /// Runs SQL as the superuser and returns what psql printed, unaligned. Stops at the first error.
    ///
    /// The SQL goes by standard input: it may hold a password, and command lines are public.
    ///
    /// # Errors
    /// What psql printed on its standard error.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String, ClusterError> {
        let mut command = Command::new(self.binaries.program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", database, "-h"]);
        command.arg(self.socket.path()).args(["-p", &self.port()]);
        run("psql", &mut command, Some(sql), Duration::from_secs(60)).await
    }

    /// Copies the TCP certificate files anew and makes a running server read them.
    ///
    /// # Errors
    /// A file cannot be read or written, or the server does not answer.
    pub async fn reload_certificates(&self) -> Result<(), ClusterError> {
        self.copy_certificates()?;
        self.sql("postgres", "SELECT pg_reload_conf()").await.map(drop)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn port(&self) -> String {
        self.tcp.as_ref().map_or(5432, |tcp| tcp.address.port()).to_string()
    }

    async fn prepare(&self) -> Result<(), ClusterError> {
        fs::create_dir_all(&self.directory).map_err(io_error(&self.directory))?;
        self.account.chown(&self.directory)?;
        // Of a process that was killed.
        end_orphan(&self.directory);
        let sockets = self.directory.join(SOCKETS_FILE);
        fs::write(&sockets, self.socket.path().as_os_str().as_encoded_bytes()).map_err(io_error(&sockets))?;
        if !self.data().join("PG_VERSION").exists() {
            let mut command = Command::new(self.binaries.program("initdb"));
            command.arg("-D").arg(self.data()).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"]);
            command.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--data-checksums", "--no-instructions"]);
            if self.settings.iter().any(|(key, value)| key == "fsync" && value == "off") {
                command.arg("--no-sync");
            }
            self.account.apply(&mut command);
            command.current_dir(&self.directory);
            let made = run("initdb", &mut command, None, INITDB_TIMEOUT).await;
            made.map_err(|error| self.account.explain_permission(&self.directory, error))?;
        }
        let hba = self.data().join("pg_hba.conf");
        fs::write(&hba, "local all all trust\nhostssl all all all scram-sha-256 clientcert=verify-ca\n")
            .map_err(io_error(&hba))?;
        self.copy_certificates()
    }

    fn copy_certificates(&self) -> Result<(), ClusterError> {
        let Some(tcp) = &self.tcp else { return Ok(()) };
        for (from, to) in
            [(&tcp.certificate_file, "server.crt"), (&tcp.key_file, "server.key"), (&tcp.ca_file, "root.crt")]
        {
            let to = self.data().join(to);
            let pem = fs::read(from).map_err(io_error(from))?;
            let new = to.with_extension("new");
            fs::write(&new, pem).map_err(io_error(&new))?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(io_error(&new))?;
            self.account.own_file(&new)?;
            fs::rename(&new, &to).map_err(io_error(&to))?;
        }
        Ok(())
    }
}

/// Runs a program to its end, bounded, with `input` on its standard input.
async fn run(name: &str, command: &mut Command, input: Option<&str>, limit: Duration) -> Result<String, ClusterError> {
    let failed = |output: String| ClusterError::Program { program: name.to_owned(), output };
    without_settings(command.as_std_mut());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Some(input) = input
    {
        // A program that ends early says why on its standard error, which is what counts.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
    }
    let output = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| ClusterError::TimedOut { what: name.to_owned(), limit })?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::Io { path, source }
}
