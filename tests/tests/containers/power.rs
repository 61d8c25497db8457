//! Proves that the platform comes back by itself when the machine loses power: Docker and every container are killed where
//! they stand, and only Docker is started again. Beside containers of others, Docker lives, and only the platform's containers
//! are killed, all at once: their restart policy is what brings them back.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, START_LIMIT, say, say_skipped},
    docker::{as_root, docker, output},
    poll::until,
    power_cut::PowerCut,
};
use tokio::process::Command;

/// Where the engine says who it is.
const PROCESS_FILES: [&str; 2] = ["/var/run/docker.pid", "/run/docker.pid"];
const DEAD_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_everything_comes_back_by_itself() {
    let platform = Containers::from_environment().unwrap();
    let admin = platform.admin().await.unwrap();
    let name = format!("before-the-cut-{}", std::process::id());
    let user = serde_json::json!({ "name": name, "kind": "machine", "tenant": "default", "roles": ["viewer"] });
    let made = platform.front.call(http::Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await.unwrap();
    assert_eq!(made.0, http::StatusCode::CREATED, "{}", made.1);
    let users = count_of_users(&platform).await.unwrap();

    match PowerCut::allowed_for(&platform).await.unwrap() {
        PowerCut::Daemon => {
            cut_power(&platform).await.unwrap();
            start_engine().await.unwrap();
        }
        PowerCut::Project { bystanders } => {
            let others = bystanders.join(", ");
            say_skipped(&format!("the death of Docker itself, which would end containers of others: {others}"));
            kill_containers(&platform).await.unwrap();
        }
    }
    let predicted = platform.wait_prediction(START_LIMIT).await.unwrap();
    let healthy = platform.wait_healthy(START_LIMIT).await.unwrap() + predicted;

    let found = platform.psql(&format!("SELECT count(*) FROM gateway.users WHERE name = '{name}'")).await.unwrap();
    assert_eq!(found, "1", "the user that was made just before the cut is there");
    assert_eq!(count_of_users(&platform).await.unwrap(), users, "and so is every other");
    say(&format!(
        "after the cut: a prediction after {:.1} s, everything healthy after {:.1} s, {users} users kept",
        predicted.as_secs_f64(),
        healthy.as_secs_f64()
    ));
}

async fn count_of_users(platform: &Containers) -> anyhow::Result<String> {
    platform.psql("SELECT count(*) FROM gateway.users").await
}

/// Kills the main processes of the platform's containers, all with one command, and waits until each has another.
async fn kill_containers(platform: &Containers) -> anyhow::Result<()> {
    let mut killed = Vec::new();
    for service in platform.services().await? {
        let container = platform.container(&service);
        killed.push((container.main_process().await?.to_string(), container));
    }
    kill(&killed.iter().map(|(process, _)| process.clone()).collect::<Vec<_>>()).await?;
    until("every container is started again", START_LIMIT, async || {
        for (process, container) in &killed {
            ensure!(container.main_process().await?.to_string() != *process, "{} is not", container.name);
        }
        Ok(())
    })
    .await
    .map(drop)
}

/// Kills the engine first, so that nothing restarts what dies next, then the platform's containers.
async fn cut_power(platform: &Containers) -> anyhow::Result<()> {
    let mut containers = Vec::new();
    for service in platform.services().await? {
        let container = platform.container(&service);
        let id = docker(&["inspect", "--format", "{{.Id}}", &container.name]).await?;
        containers.push((container.main_process().await?.to_string(), id));
    }
    let engine = engine().context("the engine's process is not known")?;
    // Its own containerd, where it has one: else systemd's, which may live, because all that it watches dies.
    let containerd = as_root("pgrep", &["--parent", &engine, "--exact", "containerd"]).await.unwrap_or_default();
    let engine: Vec<String> = [engine].into_iter().chain(containerd.lines().map(ToOwned::to_owned)).collect();
    for process in &engine {
        kill(std::slice::from_ref(process)).await?;
    }
    for (process, id) in &containers {
        let shim = format!("containerd-shim.* -id {id}");
        let shims = as_root("pgrep", &["--full", &shim]).await.unwrap_or_default();
        kill(&shims.lines().map(ToOwned::to_owned).collect::<Vec<_>>()).await?;
        kill(std::slice::from_ref(process)).await?;
    }
    until("everything dead", DEAD_WITHIN, async || {
        for (process, _) in &containers {
            ensure!(!is_running(process), "the process {process} lives");
        }
        // After a real power cut there is no process that could be taken for the engine that was.
        for process in &engine {
            ensure!(!Path::new("/proc").join(process).exists(), "the process {process} is not gone");
        }
        Ok(())
    })
    .await
    .map(drop)
}

fn engine() -> Option<String> {
    PROCESS_FILES.iter().find_map(|file| Some(std::fs::read_to_string(file).ok()?.trim().to_owned()))
}

/// What has died already needs no killing.
async fn kill(processes: &[String]) -> anyhow::Result<()> {
    let running: Vec<&str> = processes.iter().map(String::as_str).filter(|process| is_running(process)).collect();
    if running.is_empty() {
        return Ok(());
    }
    let killed = as_root("kill", &[&["-s", "KILL"], running.as_slice()].concat()).await;
    let survivors: Vec<&&str> = running.iter().filter(|process| is_running(process)).collect();
    ensure!(killed.is_ok() || survivors.is_empty(), "{survivors:?} cannot be killed: {killed:?}");
    Ok(())
}

/// A dead process may stay in the table until its parent asks how it ended.
fn is_running(process: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    let state = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// As scripts/up does it, and nothing else: no container is touched.
async fn start_engine() -> anyhow::Result<()> {
    let script = r#"set -euo pipefail; source "$root/scripts/lib/setup.sh"; source "$root/scripts/lib/docker.sh"; provide_engine"#;
    let mut bash = Command::new("bash");
    bash.args(["-c", script]).env("root", repository().canonicalize()?);
    let started = output(&mut bash).await?;
    ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    Ok(())
}
