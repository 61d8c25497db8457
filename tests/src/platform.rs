//! A platform of the test's own: `rampart dev` with its own ports and data, stopped when the test ends.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    checkout::repository,
    front_door::FrontDoor,
    log_warnings::{self, Lengths},
    poll::until_blocking,
    request::{Protocol, Server, Template},
};

const START_TIMEOUT: Duration = Duration::from_secs(120);
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

/// How a platform is started; the default is what most tests want.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Further arguments of `rampart dev`.
    pub arguments: &'a [&'a str],
    /// Further environment, which its services inherit: `RAMPART_<SERVICE>__SECTION__KEY`.
    pub environment: &'a [(&'a str, &'a str)],
    /// Where its data is.
    pub data: Data<'a>,
}

/// Where a platform has its data.
#[derive(Clone, Copy, Default)]
pub enum Data<'a> {
    /// In a directory of the test's own.
    #[default]
    Own,
    /// In this one, which stays.
    At(&'a Path),
    /// Where `rampart dev` puts it by default.
    Default,
}

/// A running platform.
pub struct Platform {
    state: State,
    child: Child,
    directory: tempfile::TempDir,
    logs: Lengths,
}

// === impl Setup ===

impl Setup<'_> {
    /// Starts `rampart dev` and waits for its first prediction.
    ///
    /// # Errors
    /// It does not come up; the message ends with what it printed.
    pub fn start(self) -> anyhow::Result<Platform> {
        identity::install_crypto_providers()?;
        let directory = tempfile::Builder::new().prefix("rampart-e2e-").tempdir()?;
        // PostgreSQL may run under an account of its own, which must be able to pass through and to make its socket.
        set_mode(directory.path(), 0o711)?;
        fs::create_dir(directory.path().join(TEMPORARY))?;
        set_mode(&directory.path().join(TEMPORARY), 0o1777)?;
        let mut child = self.command(directory.path())?.spawn().context("cannot start rampart dev")?;
        match wait_until_up(&mut child, &directory.path().join(OUTPUT)) {
            Ok(state) => {
                Ok(Platform { logs: log_warnings::lengths(&state.data.join("logs"))?, state, child, directory })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("rampart dev did not come up (logs in {})", directory.keep().display())))
            }
        }
    }

    fn command(&self, directory: &Path) -> anyhow::Result<Command> {
        let output = fs::File::create(directory.join(OUTPUT))?;
        let (library, digest) = onnxruntime()?;
        let mut command = die_with_parent(&binary("rampart")?);
        command.args(["dev", "--port", "0", "--models"]).arg(repository().join("examples/models"));
        command.arg("--onnxruntime").arg(library).args(["--onnxruntime-sha256", &digest]).args(self.arguments);
        match self.data {
            Data::Own => command.arg("--data").arg(directory.join("data")),
            Data::At(data) => command.arg("--data").arg(data),
            Data::Default => &mut command,
        };
        command.env("TMPDIR", directory.join(TEMPORARY)).envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(command)
    }
}

/// The command, ended by the kernel when this process is killed: an interrupted test leaves nothing.
fn die_with_parent(executable: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(executable);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM", "--"]).arg(executable);
    command
}

fn wait_until_up(child: &mut Child, output: &Path) -> anyhow::Result<State> {
    let mut printed = String::new();
    let is_up = until_blocking(START_TIMEOUT, || {
        printed = fs::read_to_string(output).unwrap_or_default();
        let is_up = printed.contains("running; Ctrl-C");
        ensure!(is_up || child.try_wait()?.is_none(), "{printed}");
        Ok(is_up.then_some(()))
    })?;
    ensure!(is_up.is_some(), "{printed}");
    let data = printed.lines().find_map(|line| line.strip_prefix("data: ")).context("it names no data directory")?;
    let data = Path::new(data.trim_end_matches(" (removed at the end)"));
    serde_json::from_slice(&fs::read(data.join("state.json"))?).context("state.json")
}

// === impl Platform ===

impl Platform {
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

    /// The front door's address.
    ///
    /// # Errors
    /// The state file names none.
    pub fn front_address(&self) -> anyhow::Result<SocketAddr> {
        let port = self.state.front.rsplit(':').next().context("no port")?.parse::<u16>()?;
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// The front door.
    ///
    /// # Errors
    /// The state file names none.
    pub fn door(&self) -> anyhow::Result<FrontDoor> {
        let example_file = self.state.data.join("example-request.json");
        Ok(FrontDoor { address: self.front_address()?, ca_file: self.state.ca_file.clone(), example_file })
    }

    /// How to reach the front door.
    ///
    /// # Errors
    /// The CA file is not there.
    pub fn front(&self, protocol: Protocol) -> anyhow::Result<Server> {
        self.door()?.server(protocol)
    }

    /// The access token of a role, as it is now.
    ///
    /// # Errors
    /// There is no such role.
    pub fn token(&self, role: &str) -> anyhow::Result<String> {
        let path = self.state.tokens.get(role).with_context(|| format!("no token for {role}"))?;
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// See [`FrontDoor::call`].
    ///
    /// # Errors
    /// No answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        self.door()?.call(method, path, token, body).await
    }

    /// Makes a machine account with these roles and logs it in: its id and an access token.
    ///
    /// # Errors
    /// The platform refused.
    pub async fn account(&self, name: &str, roles: &[&str]) -> anyhow::Result<(String, String)> {
        let admin = self.token("admin")?;
        let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": roles });
        let (status, made) = self.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await?;
        ensure!(status.is_success(), "making {name}: {status} {made}");
        let secret = made.get("client_secret").and_then(Value::as_str).context("no client_secret")?;
        let id = made.pointer("/user/id").or(made.get("id")).and_then(Value::as_str).context("no id")?;
        Ok((id.to_owned(), self.login(name, secret).await?))
    }

    /// See [`FrontDoor::login`].
    ///
    /// # Errors
    /// The platform refused.
    pub async fn login(&self, name: &str, secret: &str) -> anyhow::Result<String> {
        self.door()?.login(name, secret).await
    }

    /// See [`FrontDoor::healthy_backends`].
    ///
    /// # Errors
    /// No answer.
    pub async fn healthy_backends(&self) -> anyhow::Result<u64> {
        self.door()?.healthy_backends().await
    }

    /// See [`FrontDoor::prediction`].
    ///
    /// # Errors
    /// The example file is not there.
    pub fn prediction(&self, token: &str) -> anyhow::Result<Template> {
        self.door()?.prediction(token)
    }

    /// See [`FrontDoor::grpc_prediction`].
    ///
    /// # Errors
    /// The example file is not there.
    pub fn grpc_prediction(&self, token: &str) -> anyhow::Result<Template> {
        self.door()?.grpc_prediction(token)
    }

    /// See [`FrontDoor::golden_prediction`].
    ///
    /// # Errors
    /// The platform answers something else.
    pub async fn golden_prediction(&self, token: &str) -> anyhow::Result<Template> {
        self.door()?.golden_prediction(token).await
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

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// A binary of the workspace, beside the running test.
///
/// # Errors
/// It was not built: `cargo build --workspace` comes first.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directories = own.ancestors().skip(1).take(2);
    let found = directories.map(|directory| directory.join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not built: run cargo build --workspace first"))
}

/// ONNX Runtime's library and digest, as `scripts/lib` unpacked it.
fn onnxruntime() -> anyhow::Result<(PathBuf, String)> {
    let library =
        std::env::var("RAMPART_ONNXRUNTIME").context("RAMPART_ONNXRUNTIME is not set: run by scripts/test")?;
    let digest = std::env::var("RAMPART_ONNXRUNTIME_SHA256").context("RAMPART_ONNXRUNTIME_SHA256 is not set")?;
    Ok((library.into(), digest))
}
