//! A platform of the test's own: `rampart dev` with its own ports and data, stopped when the test ends.

mod start;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    checkout::binary,
    front_door::FrontDoor,
    log_warnings::{self, Lengths},
    poll::until_blocking,
};
pub use start::{Data, Setup};

const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// Files and folders in the test's directory.
const OUTPUT: &str = "output";
const TEMPORARY: &str = "tmp";

/// `state.json` of `rampart dev`.
#[derive(Debug, Deserialize)]
pub struct State {
    /// The front door, `https://localhost:PORT`.
    pub front: String,
    /// The CA of everything.
    pub ca_file: PathBuf,
    /// Role → file with an access token.
    pub tokens: BTreeMap<String, PathBuf>,
    /// Directory of identities, one folder an instance.
    pub identities: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Instance → its listeners.
    pub listeners: BTreeMap<String, Listeners>,
    /// PostgreSQL.
    pub database: SocketAddr,
}

/// Where an instance listens.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Listeners {
    /// Its service, mTLS. The balancer has the front door instead.
    pub main: SocketAddr,
    /// Health and metrics, mTLS.
    pub admin: SocketAddr,
}

/// A running platform.
pub struct Platform {
    /// The front door.
    pub front: FrontDoor,
    state: State,
    child: Child,
    directory: tempfile::TempDir,
    logs: Lengths,
}

// === impl Platform ===

impl Platform {
    fn new(state: State, child: Child, directory: tempfile::TempDir) -> anyhow::Result<Self> {
        let port = state.front.rsplit(':').next().context("no port")?.parse::<u16>()?;
        let front = FrontDoor {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            ca_file: state.ca_file.clone(),
            example_file: state.data.join("example-request.json"),
        };
        let logs = log_warnings::lengths(&state.data.join("logs"))?;
        Ok(Self { front, state, child, directory, logs })
    }

    /// Starts `rampart dev` with further arguments and waits for its first prediction.
    ///
    /// # Errors
    /// It does not come up; the message ends with what it printed.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Setup { arguments, ..Setup::default() }.start()
    }

    /// Where everything is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The access token of a role, as it is now.
    ///
    /// # Errors
    /// There is no such role.
    pub fn token(&self, role: &str) -> anyhow::Result<String> {
        let path = self.state.tokens.get(role).with_context(|| format!("no token for {role}"))?;
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// Makes a machine account with these roles and logs it in: its id and an access token.
    ///
    /// # Errors
    /// The platform refused.
    pub async fn account(&self, name: &str, roles: &[&str]) -> anyhow::Result<(String, String)> {
        let admin = self.token("admin")?;
        let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": roles });
        let (status, made) = self.front.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await?;
        ensure!(status.is_success(), "making {name}: {status} {made}");
        let secret = made.get("client_secret").and_then(Value::as_str).context("no client_secret")?;
        let id = made.pointer("/user/id").or(made.get("id")).and_then(Value::as_str).context("no id")?;
        Ok((id.to_owned(), self.front.login(name, secret).await?))
    }

    /// A secret that the platform made: `secrets/<service>/<name>`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn secret(&self, service: &str, name: &str) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.state.data.join("secrets").join(service).join(name))?.trim().to_owned())
    }

    /// The log of an instance so far.
    pub fn log(&self, instance: &str) -> String {
        fs::read_to_string(self.state.data.join("logs").join(format!("{instance}.log"))).unwrap_or_default()
    }

    /// What `rampart dev` printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.directory.path().join(OUTPUT)).unwrap_or_default()
    }

    /// The process of an instance, found by its configuration file on the command line.
    ///
    /// # Errors
    /// It is not running now.
    pub fn pid(&self, instance: &str) -> anyhow::Result<Pid> {
        let config = self.state.data.join("config").join(format!("{instance}.toml"));
        let config = config.display().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            let is_ours = words.next().is_some_and(|program| !program.ends_with(b"setpriv"));
            if is_ours && words.any(|word| word == config.as_bytes()) {
                return Pid::from_raw(pid).context("process id");
            }
        }
        bail!("{instance} is not running")
    }

    /// Sends a signal to an instance.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&self, instance: &str, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.pid(instance)?, signal)?)
    }

    /// The process of `rampart dev` itself.
    pub fn supervisor(&self) -> u32 {
        self.child.id()
    }

    /// `rampart backup` with these arguments, with the token of a role.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn backup(&self, arguments: &[&str], role: &str) -> anyhow::Result<Output> {
        let token_file = self.state.tokens.get(role).with_context(|| format!("no token for {role}"))?;
        self.command_line(&[&["backup"], arguments].concat(), token_file)
    }

    /// `rampart` with these arguments, as a client of this platform with a token in that file.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn command_line(&self, arguments: &[&str], token_file: &Path) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("rampart")?);
        command.args(arguments).args(["--front", &self.state.front]);
        command.arg("--ca-file").arg(&self.state.ca_file).arg("--token-file").arg(token_file);
        Ok(command.output()?)
    }

    /// Stops it as Ctrl-C would. `expected` are the beginnings of the warnings that the test provoked.
    ///
    /// # Errors
    /// It does not stop in time and with success, its logs have other warnings, or it left temporary files.
    pub fn stop(mut self, expected: &[&str]) -> anyhow::Result<()> {
        // The logs of a temporary platform go with it, so they are read before; those that stay are read at the end.
        let mut found = log_warnings::warnings(&self.logs, expected)?;
        let code = self.interrupt()?;
        ensure!(code == Some(0), "rampart dev ended with {code:?} after Ctrl-C: {}", self.output());
        if self.state.data.exists() {
            found = log_warnings::warnings(&self.logs, expected)?;
        }
        ensure!(found.is_empty(), "unexpected warnings:\n{}", found.join("\n"));
        let left: Vec<_> = fs::read_dir(self.directory.path().join(TEMPORARY))?.flatten().map(|it| it.path()).collect();
        ensure!(left.is_empty(), "temporary files were left: {left:?}");
        Ok(())
    }

    fn interrupt(&mut self) -> anyhow::Result<Option<i32>> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        if let Some(status) = until_blocking(STOP_TIMEOUT, || Ok(self.child.try_wait()?))? {
            return Ok(status.code());
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("rampart dev did not stop within {STOP_TIMEOUT:?}")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The services' warnings are the first thing to know about a failed test.
            let warnings = log_warnings::warnings(&self.logs, &[]).unwrap_or_default().join("\n");
            let _ = writeln!(std::io::stderr(), "warnings of the services:\n{warnings}");
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its children die with it (see rampart dev), so a failed stop leaves nothing either.
            let _ = self.interrupt();
        }
    }
}

/// The service that an instance is of: `serving-1` is of `serving`.
pub fn service_of(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(service, _)| service)
}
