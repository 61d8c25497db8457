//! Proves that the passwords of the database change under load, and no query fails.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{
    containers::{Containers, prometheus, say},
    docker::until,
};

use crate::load::{Load, hold};

/// The test's platform rotates each minute, and the test waits for two changes of each password.
const CHANGES: usize = 2;
const CHANGE_LIMIT: Duration = Duration::from_secs(180);
/// Connections are closed that often, because only a new one needs a password.
const CUT_PERIOD: Duration = Duration::from_secs(2);
/// Prometheus asks every 10 s.
const SCRAPED_WITHIN: Duration = Duration::from_secs(60);
const FAILED_QUERIES: &str = r#"sum(ml_db_query_duration_seconds_count{outcome!="ok"})"#;
/// Who keeps a password that Vault rotates.
const HOLDERS: [(&str, &str); 3] = [
    ("gateway-a", "/run/database-password"),
    ("gateway-b", "/run/database-password"),
    ("detektor-postgres", "/secrets/detektor-password"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the platform in containers: scripts/test platform"]
async fn no_query_fails_while_the_passwords_change() {
    let platform = Containers::from_environment().unwrap();
    let failed_before = failed_queries(&platform).await.unwrap();
    let logins = Load::logins(&platform).await;
    let from = logins.steady.now();

    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut cut = 0;
    let limit = tokio::time::Instant::now() + CHANGE_LIMIT;
    while seen.len() < HOLDERS.len() || seen.values().any(|passwords| passwords.len() <= CHANGES) {
        assert!(tokio::time::Instant::now() < limit, "changes seen: {:?}", changes(&seen));
        for (holder, file) in HOLDERS {
            // Its digest: the password itself is nobody's business.
            let digest = platform.container(holder).run(&["sha256sum", file]).await.unwrap();
            let passwords = seen.entry(holder).or_default();
            if passwords.last() != Some(&digest) {
                passwords.push(digest);
            }
        }
        cut += cut_idle_connections(&platform).await.unwrap();
        hold(CUT_PERIOD).await;
    }
    let figures = logins.steady.figures(from, logins.steady.now()).await.unwrap();
    let failed = failed_queries_from_now(&platform).await.unwrap();
    say(&format!("passwords changed: {:?}; {cut} idle connections cut; logins: {}", changes(&seen), figures.line()));
    say(&format!("failed queries by the services' own count: {}", failed - failed_before));
    assert_eq!(figures.failed, 0, "{:?}", figures.failures);
    assert!(cut > 0, "new connections were needed");
    assert!(failed <= failed_before, "{} queries failed", failed - failed_before);
}

fn changes<'a>(seen: &BTreeMap<&'a str, Vec<String>>) -> BTreeMap<&'a str, usize> {
    seen.iter().map(|(holder, passwords)| (*holder, passwords.len() - 1)).collect()
}

/// Those that wait in a pool and would never ask for a password again. Not those that follow the changes of other gateways:
/// they are kept for that, and to lose one is a failed query, though one that nobody waits for.
async fn cut_idle_connections(platform: &Containers) -> anyhow::Result<u64> {
    let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'gateway' \
        AND state = 'idle' AND query !~ 'LISTEN|changes' AND state_change < now() - interval '100 ms'";
    platform.psql(query).await?.parse().context("a count")
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
