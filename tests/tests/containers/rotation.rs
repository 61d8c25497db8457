//! Proves that the passwords of the database change under load, and no query fails; and that a login to Vault ends when the next one
//! is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::ensure;
use end_to_end::{
    containers::{Containers, prometheus, say},
    docker::docker,
    poll::{until, until_every},
};

use crate::{forgeries::VaultSession, load::Load};

/// The test's platform rotates each minute, and the test waits for two changes of each password.
const CHANGES: usize = 2;
const CHANGE_LIMIT: Duration = Duration::from_secs(180);
/// Only a new connection needs a password: the test's platform renews each after 5 s.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// New connections that there must have been meanwhile.
const CONNECTIONS_MIN: usize = 30;
/// Prometheus asks every 10 s.
const SCRAPED_WITHIN: Duration = Duration::from_secs(60);
/// At its start the steward sets up all of Vault.
const RENEWED_WITHIN: Duration = Duration::from_secs(60);
const FAILED_QUERIES: &str = r#"sum(ml_db_query_duration_seconds_count{outcome!="ok"})"#;
/// Who keeps a password that Vault rotates.
const HOLDERS: [(&str, &str); 3] = [
    ("gateway-a", "/run/database-password"),
    ("gateway-b", "/run/database-password"),
    ("detektor-postgres", "/secrets/detektor-password"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_fails_while_the_passwords_change() {
    let platform = Containers::from_environment().unwrap();
    let failed_before = failed_queries(&platform).await.unwrap();
    let logins = Load::logins(&platform).await;
    let from = logins.steady.now();

    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut connections = BTreeSet::new();
    until_every(LOOK_PERIOD, "every password changes", CHANGE_LIMIT, async || {
        for (holder, file) in HOLDERS {
            // Its digest is enough to see a change, and no secret.
            let digest = platform.container(holder).run(&["sha256sum", file]).await.unwrap();
            let passwords = seen.entry(holder).or_default();
            if passwords.last() != Some(&digest) {
                passwords.push(digest);
            }
        }
        connections.extend(connections_of_gateways(&platform).await.unwrap());
        ensure!(changes(&seen).values().all(|changes| *changes >= CHANGES), "changes seen: {:?}", changes(&seen));
        Ok(())
    })
    .await
    .unwrap();
    let figures = logins.steady.figures(from, logins.steady.now()).await.unwrap();
    let failed = failed_queries_from_now(&platform).await.unwrap();
    let made = connections.len();
    say(&format!("passwords changed: {:?}; {made} connections seen; logins: {}", changes(&seen), figures.line()));
    say(&format!("failed queries by the services' own count: {}", failed - failed_before));
    assert_eq!(figures.failed, 0, "{:?}", figures.failures);
    assert!(made >= CONNECTIONS_MIN, "{made} connections: too few had to show a password");
    assert!(failed <= failed_before, "{} queries failed", failed - failed_before);
}

/// The steward renews logins once a day, and at its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_login_to_vault_ends_when_the_next_one_is_there() {
    let platform = Containers::from_environment().unwrap();
    let old = VaultSession::open(&platform, "sla-tracker").await.unwrap();
    docker(&["restart", &platform.container("steward").name]).await.unwrap();
    until("the old login is refused", RENEWED_WITHIN, async || {
        let answer = old.log_in().await?;
        ensure!(answer.status.is_client_error(), "it is {}", answer.status);
        Ok(())
    })
    .await
    .unwrap();
    // Opens with a login of its own.
    VaultSession::open(&platform, "sla-tracker").await.unwrap();
    platform.container("steward").is_healthy().await.unwrap();
}

fn changes<'a>(seen: &BTreeMap<&'a str, Vec<String>>) -> BTreeMap<&'a str, usize> {
    seen.iter().map(|(holder, passwords)| (*holder, passwords.len() - 1)).collect()
}

async fn connections_of_gateways(platform: &Containers) -> anyhow::Result<Vec<String>> {
    let query = "SELECT pid || ' since ' || backend_start FROM pg_stat_activity WHERE usename = 'gateway'";
    Ok(platform.psql(query).await?.lines().map(str::to_owned).collect())
}

async fn failed_queries(platform: &Containers) -> anyhow::Result<f64> {
    prometheus(platform, FAILED_QUERIES).await.map(|value| value.unwrap_or(0.0))
}

/// As it is once every service has been asked anew.
async fn failed_queries_from_now(platform: &Containers) -> anyhow::Result<f64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    until("every service is scraped", SCRAPED_WITHIN, async || {
        let oldest = prometheus(platform, "min(timestamp(ml_db_query_duration_seconds_count))").await?;
        ensure!(oldest.is_some_and(|oldest| oldest > now), "{oldest:?}");
        Ok(())
    })
    .await?;
    failed_queries(platform).await
}
