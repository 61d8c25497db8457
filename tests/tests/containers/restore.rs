//! Proves that the database comes back out of its archive: as it was at a time, and as it was last when both nodes have lost everything.
//! Owners, roles and rights come with it, so that the services start on it as it is.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, say},
    docker::docker,
    poll::until,
    recorded_load::Figures,
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    process::Command,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};

use crate::{
    database::replication_is_right,
    ledger::Ledger,
    load::{Load, RETURN},
};

const NODES: [&str; 2] = ["detektor-postgres-master", "detektor-postgres-slave"];
/// The first one is begun at once, and the database is small.
const BASE_BACKUP_WITHIN: Duration = Duration::from_secs(120);
/// Both nodes stopped, one restored, the other copied from it.
const RESTORED_WITHIN: Duration = Duration::from_secs(300);
/// Their passwords are those of then, until Vault has made new ones.
const SERVICES_WITHIN: Duration = Duration::from_secs(60);
/// An account may not log in without end.
const LOGIN_PERIOD: Duration = Duration::from_millis(500);
/// A poll of the gateways, and a login.
const SIGNED_IN_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// The latest prediction while both nodes are stopped, restored and copied on the cores that predict: for once, by a person.
const LATEST_MEANWHILE: Duration = Duration::from_secs(3);
/// Demanded of a disaster.
const LOST_MAX: Duration = Duration::from_secs(120);
/// Longer than `archive_timeout`, so that the archive has a part of the ledger.
const LEDGER_WRITTEN: Duration = Duration::from_secs(70);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_comes_back_as_it_was_at_a_time() {
    let platform = Containers::from_environment().unwrap();
    wait_for_base_backup(&platform).await.unwrap();
    let (kept, secret) = make_account(&platform, "restore-kept").await.unwrap();
    let time = platform.psql("SELECT clock_timestamp()").await.unwrap();
    let admin = platform.admin().await.unwrap();
    let path = format!("/api/admin/users/{kept}");
    let (status, answer) = platform.front.call(Method::DELETE, &path, Some(&admin), None).await.unwrap();
    assert!(status.is_success(), "{status} {answer}");
    make_account(&platform, "restore-later").await.unwrap();

    let predictions = Load::predictions(&platform).await;
    let signed_in_again = sign_in_again(&platform, &predictions);
    let begun = Instant::now();
    restore(&time).await.unwrap();
    let kept_signs_in = async || platform.front.login("restore-kept", &secret).await.map(drop);
    until("a login as of then", SERVICES_WITHIN, kept_signs_in).await.unwrap();
    say(&format!("restored to a time, logins after {:.1} s", begun.elapsed().as_secs_f64()));
    signed_in_again.await.unwrap().unwrap();
    let figures = predictions.steady.figures(Duration::ZERO, predictions.steady.now()).await.unwrap();
    drop(predictions);
    until("replication", RETURN, async || replication_is_right(&platform).await).await.unwrap();
    let later = platform.psql("SELECT count(*) FROM gateway.users WHERE name = 'restore-later'").await.unwrap();
    assert_eq!(later, "0", "what was written after that time is gone");
    every_service_works(&platform).await.unwrap();
    predictions_went_on(&figures);
    forget_what_was_before(&platform).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_comes_back_when_both_nodes_have_lost_everything() {
    let platform = Containers::from_environment().unwrap();
    wait_for_base_backup(&platform).await.unwrap();
    let predictions = Load::predictions(&platform).await;
    let ledger = Ledger::open(&platform).await;
    predictions.steady.go_on(LEDGER_WRITTEN).await.unwrap();
    let signed_in_again = sign_in_again(&platform, &predictions);
    // Killed: neither has a moment to archive what it has.
    for node in NODES {
        docker(&["kill", &platform.container(node).name]).await.unwrap();
    }
    let lost = Instant::now();
    let written = ledger.close();
    for node in NODES {
        destroy_files(node).await.unwrap();
    }
    restore("newest").await.unwrap();
    until("a login", SERVICES_WITHIN, async || platform.analyst().await.map(drop)).await.unwrap();
    let recovered = lost.elapsed();
    signed_in_again.await.unwrap().unwrap();
    let figures = predictions.steady.figures(Duration::ZERO, predictions.steady.now()).await.unwrap();
    drop(predictions);
    every_service_works(&platform).await.unwrap();
    let mut missing = Vec::new();
    until("people's password", SERVICES_WITHIN, async || {
        missing = written.missing(&platform).await?;
        Ok(())
    })
    .await
    .unwrap();
    let oldest = missing.iter().filter_map(|name| written.acknowledged.get(name)).min();
    let loss = oldest.map_or(Duration::ZERO, |acknowledged| lost - *acknowledged);
    say(&format!(
        "both nodes lost: logins after {:.1} s; of {} rows acknowledged the last {} are missing, {:.1} s of work",
        recovered.as_secs_f64(),
        written.acknowledged.len(),
        missing.len(),
        loss.as_secs_f64()
    ));
    predictions_went_on(&figures);
    assert!(missing.len() < written.acknowledged.len(), "no row of the ledger came back");
    assert!(loss <= LOST_MAX, "the work of {loss:?} is lost");
    until("replication", RETURN, async || replication_is_right(&platform).await).await.unwrap();
    forget_what_was_before(&platform).await.unwrap();
}

/// Every token of before ends with the restore: the load has a new one as soon as there is one.
fn sign_in_again(platform: &Containers, load: &Load) -> JoinHandle<anyhow::Result<()>> {
    let (platform, steady) = (platform.clone(), load.steady.clone());
    let renew = async move {
        let mut ticks = interval(LOGIN_PERIOD);
        let mut was_away = false;
        loop {
            ticks.tick().await;
            match platform.analyst().await {
                Err(_) => was_away = true,
                Ok(token) if was_away => return steady.use_token(&token),
                Ok(_) => {}
            }
        }
    };
    tokio::spawn(async { timeout(RESTORED_WITHIN, renew).await.context("no login fails and works again")? })
}

/// No call failed but those with a token of before, in the moment until there was a new one.
fn predictions_went_on(figures: &Figures) {
    say(&format!("    predictions: {}", figures.line()));
    let is_refused = |failure: &String| failure.contains("401") || failure.contains("gRPC status 16");
    assert!(figures.failures.iter().all(is_refused), "{:?}", figures.failures);
    assert!(figures.outage <= SIGNED_IN_AGAIN_WITHIN, "{}: {:?}", figures.line(), figures.failures);
    assert!(figures.slowest <= LATEST_MEANWHILE, "{}", figures.line());
}

pub(crate) async fn wait_for_base_backup(platform: &Containers) -> anyhow::Result<()> {
    let took = until("a base backup", BASE_BACKUP_WITHIN, async || {
        let leader = platform.patroni().await?.leader;
        let said = platform.container(&leader).run(&["archive", "state"]).await?;
        ensure!(said == "backups", "the archive has: {said}");
        Ok(())
    });
    took.await.map(drop)
}

/// A machine account: its id and its secret.
pub(crate) async fn make_account(platform: &Containers, name: &str) -> anyhow::Result<(String, String)> {
    let admin = platform.admin().await?;
    let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": ["viewer"] });
    let (status, made) = platform.front.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await?;
    ensure!(status.is_success(), "making {name}: {status} {made}");
    let text = |path: &str| made.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned);
    let id = text("/user/id").or_else(|| text("/id")).context("no id")?;
    Ok((id, text("/client_secret").context("no client_secret")?))
}

async fn restore(time: &str) -> anyhow::Result<()> {
    run("scripts/restore-database", &[time], RESTORED_WITHIN).await
}

/// As if its disk was lost: the container and its volume stay, and nothing in it.
async fn destroy_files(node: &str) -> anyhow::Result<()> {
    let arguments = ["compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "bash", node];
    let everything = ["-c", "shopt -s dotglob && rm -rf /data/*"];
    run("docker", &[&arguments[..], &everything].concat(), RETURN).await
}

/// Runs a program in the checkout, whose compose file is the platform's.
pub(crate) async fn run(program: &str, arguments: &[&str], limit: Duration) -> anyhow::Result<()> {
    let path = if program.contains('/') { repository().join(program) } else { program.into() };
    let mut command = Command::new(path);
    command.args(arguments).current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    let status = timeout(limit, command.status()).await.with_context(|| format!("{program} goes on"))??;
    ensure!(status.success(), "{program} {arguments:?}: {status}");
    Ok(())
}

/// Each of them logs in to the database with a password of its own.
async fn every_service_works(platform: &Containers) -> anyhow::Result<()> {
    until("every service with its database", SERVICES_WITHIN, async || {
        let token = platform.analyst().await?;
        for path in ["/api/sla/ml-services/current", "/api/2.0/mlflow/model-versions/search"] {
            let (status, answer) = platform.front.call(Method::GET, path, Some(&token), None).await?;
            ensure!(status.is_success(), "{path}: {status} {answer}");
        }
        let admin = platform.admin().await?;
        let (status, answer) = platform.front.call(Method::GET, "/api/backups", Some(&admin), None).await?;
        ensure!(status.is_success(), "backups: {status} {answer}");
        Ok(())
    })
    .await?;
    platform.wait_healthy(RETURN).await.map(drop)
}

/// Later tests fill no disk.
async fn forget_what_was_before(platform: &Containers) -> anyhow::Result<()> {
    for node in NODES {
        platform.container(node).run(&["sh", "-c", "rm -rf /data/before-*"]).await?;
    }
    Ok(())
}
