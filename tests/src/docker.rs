//! The Docker command line: what can be done to a container, and what it then says of itself.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::poll::until_every;

/// Saving or stopping takes a while; what takes longer hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Each look at whose health starts a process in the container.
pub(crate) const HEALTH_PERIOD: Duration = Duration::from_millis(500);

/// As in docker-compose.yml.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// One container, by its whole name.
#[derive(Clone, Debug)]
pub struct Container {
    /// As `docker ps` shows it.
    pub name: String,
}

/// What can happen to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its main process is killed from the host, so the restart policy acts.
    Kill,
    /// `docker stop`, and `docker start` later.
    Stop,
    /// `docker pause`, and `docker unpause` later.
    Pause,
}

/// A container that was struck.
pub struct Struck {
    container: Container,
    fault: Fault,
    started_at: String,
}

/// Runs `docker` and returns what it printed, without the last line's end.
///
/// # Errors
/// It failed; the message is what it complained about.
pub async fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    printed("docker", Command::new("docker").args(arguments), arguments).await
}

/// Runs a program as root: the processes of containers belong to other users.
///
/// # Errors
/// It failed, or this is not root and `sudo` wants a password.
pub async fn as_root(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", program]);
        sudo
    };
    printed(program, command.args(arguments), arguments).await
}

async fn printed(program: &str, command: &mut Command, arguments: &[&str]) -> anyhow::Result<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let output = output(command).await.with_context(what)?;
    ensure!(output.status.success(), "{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Runs a command to its end, within bounds.
///
/// # Errors
/// It cannot be run, or takes too long.
pub async fn output(command: &mut Command) -> anyhow::Result<Output> {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    Ok(timeout(COMMAND_TIMEOUT, child.wait_with_output()).await.context("it takes too long")??)
}

/// Whether all of them run, and whose health is checked is healthy: as Docker saw it last, else by its check, run now. Docker
/// itself checks seldom, and after a start waits as long before it does so first.
///
/// # Errors
/// One is not; the message says which, and how it is.
pub async fn are_healthy(containers: &[Container]) -> anyhow::Result<()> {
    let names = containers.iter().map(|container| container.name.as_str());
    let arguments: Vec<&str> = ["inspect", "--format", "{{json .}}"].into_iter().chain(names).collect();
    for line in docker(&arguments).await?.lines() {
        let inspected = serde_json::from_str(line).context("inspect")?;
        if health_of_running(&inspected)? != "healthy" {
            run_health_check(&inspected).await?;
        }
    }
    Ok(())
}

fn health_of_running(inspected: &Value) -> anyhow::Result<&str> {
    let text = |path: &str| inspected.pointer(path).and_then(Value::as_str).unwrap_or("none");
    let (name, status) = (text("/Name"), text("/State/Status"));
    ensure!(status == "running", "{name}: {status}");
    Ok(text("/State/Health/Status"))
}

/// Succeeds for a container without a check.
async fn run_health_check(inspected: &Value) -> anyhow::Result<()> {
    let test = inspected.pointer("/Config/Healthcheck/Test").and_then(Value::as_array);
    let words: Vec<&str> = test.into_iter().flatten().filter_map(Value::as_str).collect();
    let command = match words.as_slice() {
        [] | ["NONE"] => return Ok(()),
        ["CMD", command @ ..] => command.to_vec(),
        ["CMD-SHELL", script] => vec!["sh", "-c", script],
        other => bail!("no such check is known: {other:?}"),
    };
    let name = inspected.pointer("/Name").and_then(Value::as_str).context("no name")?.trim_start_matches('/');
    let arguments = [&["exec", name], command.as_slice()].concat();
    timeout(HEALTH_CHECK_TIMEOUT, docker(&arguments)).await.context("no answer in time")?.map(drop)
}

// === impl Container ===

impl Container {
    /// `docker inspect`.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn inspect(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&docker(&["inspect", "--format", "{{json .}}", &self.name]).await?).context("inspect")
    }

    /// The image that it was made from.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn image(&self) -> anyhow::Result<String> {
        docker(&["inspect", "--format", "{{.Image}}", &self.name]).await
    }

    /// The main process, as the host numbers it.
    ///
    /// # Errors
    /// It is not running.
    pub async fn main_process(&self) -> anyhow::Result<u64> {
        let pid = self.inspect().await?.pointer("/State/Pid").and_then(Value::as_u64).unwrap_or(0);
        ensure!(pid > 0, "{} is not running", self.name);
        Ok(pid)
    }

    /// Whether it runs, and its health check, if it has one, says that it is well.
    ///
    /// # Errors
    /// It is not; the message says how it is.
    pub async fn is_healthy(&self) -> anyhow::Result<()> {
        let inspected = self.inspect().await?;
        health_of_running(&inspected)?;
        run_health_check(&inspected).await
    }

    /// Runs a command in it and returns what it printed.
    ///
    /// # Errors
    /// The command failed.
    pub async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        docker(&[&["exec", self.name.as_str()][..], command].concat()).await
    }

    /// A signal to its main process from the host.
    ///
    /// # Errors
    /// It is not running.
    pub async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let process = self.main_process().await?.to_string();
        as_root("kill", &["-s", signal, &process]).await.map(drop)
    }

    /// Its address in the network of the project with that name, or in any.
    ///
    /// # Errors
    /// It has none.
    pub async fn address(&self) -> anyhow::Result<String> {
        let inspected = self.inspect().await?;
        let networks =
            inspected.pointer("/NetworkSettings/Networks").and_then(Value::as_object).context("no networks")?;
        let mut addresses = networks.values().filter_map(|network| network.get("IPAddress")?.as_str());
        let address = addresses.find(|address| !address.is_empty());
        Ok(address.with_context(|| format!("{} has no address", self.name))?.to_owned())
    }

    /// Lets something happen to it.
    ///
    /// # Errors
    /// Docker refused.
    pub async fn strike(&self, fault: Fault) -> anyhow::Result<Struck> {
        let started_at = self.started_at().await?;
        match fault {
            Fault::Kill => self.signal("KILL").await?,
            Fault::Stop => docker(&["stop", &self.name]).await.map(drop)?,
            Fault::Pause => docker(&["pause", &self.name]).await.map(drop)?,
        }
        Ok(Struck { container: self.clone(), fault, started_at })
    }

    async fn started_at(&self) -> anyhow::Result<String> {
        let inspected = self.inspect().await?;
        Ok(inspected.pointer("/State/StartedAt").and_then(Value::as_str).context("never started")?.to_owned())
    }
}

// === impl Struck ===

impl Struck {
    /// Undoes what does not mend itself, and waits until the container is healthy again: how long that took.
    ///
    /// # Errors
    /// It is not within the limit.
    pub async fn heal(self, limit: Duration) -> anyhow::Result<Duration> {
        let name = &self.container.name;
        match self.fault {
            Fault::Kill => {}
            Fault::Stop => docker(&["start", name]).await.map(drop)?,
            Fault::Pause => docker(&["unpause", name]).await.map(drop)?,
        }
        until_every(HEALTH_PERIOD, "healthy again", limit, async || {
            // Docker may not have seen yet that the old process is gone.
            let is_new = self.fault == Fault::Pause || self.container.started_at().await? != self.started_at;
            ensure!(is_new, "{name} has not been started again");
            self.container.is_healthy().await
        })
        .await
    }
}
