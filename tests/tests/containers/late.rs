//! Proves that PostgreSQL, Vault, or MLflow with MinIO may come a minute after all others, and everything ends healthy.

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{
    containers::{Containers, START_LIMIT, say},
    docker::docker,
    poll::throughout,
};

const LATE: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_postgresql_late_all_end_healthy() {
    start_without(&["detektor-postgres-master", "detektor-postgres-slave"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_vault_late_all_end_healthy() {
    start_without(&["vault"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_mlflow_and_minio_late_all_end_healthy() {
    start_without(&["mlflow", "minio"]).await;
}

/// Stops everything, starts all but these, and these a minute later.
async fn start_without(late: &[&str]) {
    let platform = Containers::from_environment().unwrap();
    let services = platform.services().await.unwrap();
    let all = names(&platform, services.iter().map(String::as_str));
    run("stop", &all).await;
    run("start", &names(&platform, services.iter().map(String::as_str).filter(|name| !late.contains(name)))).await;
    let late_names = names(&platform, late.iter().copied());
    throughout(LOOK_PERIOD, LATE, async || are_stopped(&late_names).await).await.unwrap();
    run("start", &late_names).await;
    let healthy = platform.wait_healthy(START_LIMIT).await.unwrap();
    platform.wait_prediction(START_LIMIT).await.unwrap();
    say(&format!("{late:?} {LATE:?} late: healthy {:.1} s after that", healthy.as_secs_f64()));
}

fn names<'a>(platform: &Containers, services: impl Iterator<Item = &'a str>) -> Vec<String> {
    services.map(|service| platform.container(service).name).collect()
}

async fn are_stopped(names: &[String]) -> anyhow::Result<()> {
    let words = ["inspect", "--format", "{{.State.Running}}"].into_iter().chain(names.iter().map(String::as_str));
    let running = docker(&words.collect::<Vec<_>>()).await?;
    ensure!(!running.contains("true"), "something started {names:?}: {running}");
    Ok(())
}

async fn run(verb: &str, names: &[String]) {
    let words: Vec<&str> = [verb].into_iter().chain(names.iter().map(String::as_str)).collect();
    docker(&words).await.unwrap();
}
