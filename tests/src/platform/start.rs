//! Starts `rampart dev` in a directory of the test's own.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::{OUTPUT, Platform, State, TEMPORARY};
use crate::{
    checkout::{binary, onnxruntime, repository},
    poll::until_blocking,
};

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How a platform is started; the default is what most tests want.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Further arguments of `rampart dev`.
    pub arguments: &'a [&'a str],
    /// Further environment, which its services inherit: `RAMPART_<SERVICE>__SECTION__KEY`.
    pub environment: &'a [(&'a str, &'a str)],
    /// Where its data is.
    pub data: Data<'a>,
    /// Its models; none are those of the examples.
    pub models: Option<&'a Path>,
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
            Ok(state) => Platform::new(state, child, directory),
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
        let examples = repository().join("examples/models");
        command.args(["dev", "--port", "0", "--models"]).arg(self.models.unwrap_or(&examples));
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

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}
