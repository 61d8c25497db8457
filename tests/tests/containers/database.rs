//! Proves that PostgreSQL's primary may be lost: predictions do not notice, logins are back in time, no acknowledged row is
//! missing afterwards, and replication is right again by itself.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{
    containers::{Containers, say},
    docker::Fault,
    poll::until,
};

use crate::{
    ledger::Ledger,
    load::{LATEST, Load, RETURN, is_whole_matrix},
};

/// What is lost, and how soon logins work again.
struct Loss {
    what: &'static str,
    strike: Strike,
    logins_work_within: Duration,
}

enum Strike {
    /// The whole container.
    Container(Fault),
    /// Its postmaster alone gets this signal.
    Postmaster(&'static str),
}

const LOSSES: &[Loss] = &[
    Loss { what: "killed", strike: Strike::Container(Fault::Kill), logins_work_within: Duration::from_secs(30) },
    Loss { what: "stopped", strike: Strike::Container(Fault::Stop), logins_work_within: Duration::from_secs(30) },
];
const MORE_LOSSES: &[Loss] = &[
    Loss { what: "frozen", strike: Strike::Container(Fault::Pause), logins_work_within: Duration::from_secs(30) },
    Loss { what: "postmaster killed", strike: Strike::Postmaster("KILL"), logins_work_within: Duration::from_secs(10) },
    Loss { what: "postmaster frozen", strike: Strike::Postmaster("STOP"), logins_work_within: Duration::from_secs(15) },
];
/// Longer than what a loss may cost, so that the other node has to take over.
const AWAY: Duration = Duration::from_secs(30);
/// Longer than a connection of the test's platform lives.
const PROXY_AWAY: Duration = Duration::from_secs(8);
/// A node that comes back may be copied anew.
const REPLICATION_RETURNS: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_primary_costs_a_moment_and_no_acknowledged_row() {
    let platform = Containers::from_environment().unwrap();
    replication_is_right(&platform).await.unwrap();
    let predictions = Load::predictions(&platform).await;
    let logins = Load::logins(&platform).await;
    let ledger = Ledger::open(&platform).await;
    predictions.steady.go_on(Duration::from_secs(3)).await.unwrap();

    let losses = LOSSES.iter().chain(MORE_LOSSES.iter().filter(|_| is_whole_matrix()));
    let mut faults = Vec::new();
    for loss in losses {
        let outcome = lose(&platform, &predictions, &logins, &ledger, loss).await;
        faults.extend(outcome.err().map(|error| format!("{}: {error:#}", loss.what)));
    }
    let written = ledger.close();
    let missing = written.missing(&platform).await.unwrap();
    say(&format!("ledger: {} rows acknowledged, {} missing", written.acknowledged.len(), missing.len()));
    assert!(written.acknowledged.len() > 100, "the ledger was written all the time");
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The gateways find the primary themselves; what leads others there may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_needs_nothing_between_gateway_and_primary() {
    let platform = Containers::from_environment().unwrap();
    let logins = Load::logins(&platform).await;
    let from = logins.steady.now();
    let struck = platform.container("detektor-postgres").strike(Fault::Stop).await.unwrap();
    logins.steady.go_on(PROXY_AWAY).await.unwrap();
    let figures = logins.steady.figures(from, logins.steady.now()).await.unwrap();
    struck.heal(RETURN).await.unwrap();
    say(&format!("detektor-postgres stopped: logins: {}", figures.line()));
    assert_eq!(figures.failed, 0, "{:?}", figures.failures);
}

async fn lose(
    platform: &Containers,
    predictions: &Load,
    logins: &Load,
    ledger: &Ledger,
    loss: &Loss,
) -> anyhow::Result<()> {
    let before = platform.patroni().await?;
    let primary = before.leader;
    let container = platform.container(&primary);
    let (from, logins_from) = (predictions.steady.now(), logins.steady.now());
    let writes_from = ledger.count();
    match loss.strike {
        Strike::Container(fault) => {
            let struck = container.strike(fault).await?;
            if fault != Fault::Kill {
                predictions.steady.go_on(AWAY).await?;
            }
            struck.heal(RETURN).await?;
        }
        Strike::Postmaster(signal) => {
            let command = format!("kill -{signal} $(head -1 /data/postgres/postmaster.pid)");
            container.run(&["sh", "-c", &command]).await?;
        }
    }
    // Rows are written again, whichever node leads now.
    let acknowledged = ledger.count();
    until("writing again", RETURN, async || {
        ensure!(ledger.count() > acknowledged, "no row is acknowledged");
        Ok(())
    })
    .await?;
    let returned = until("replication", REPLICATION_RETURNS, async || replication_is_right(platform).await).await?;
    platform.wait_healthy(RETURN).await?;
    let leader = platform.patroni().await?.leader;

    let figures = predictions.steady.figures(from, predictions.steady.now()).await?;
    let login = logins.steady.figures(logins_from, logins.steady.now()).await?;
    say(&format!("{primary} {}: {leader} leads; predictions: {}", loss.what, figures.line()));
    say(&format!(
        "    logins: {} failed, away for {:.1} s; {} rows acknowledged; replication right {:.1} s after",
        login.failed,
        login.outage.as_secs_f64(),
        ledger.count() - writes_from,
        returned.as_secs_f64()
    ));
    ensure!(figures.failed == 0 && figures.retried == 0, "predictions noticed: {:?}", figures.failures);
    ensure!(figures.slowest <= LATEST, "the latest prediction took {:?}", figures.slowest);
    ensure!(login.outage <= loss.logins_work_within, "no login for {:?}: {:?}", login.outage, login.failures);
    if matches!(loss.strike, Strike::Container(Fault::Stop | Fault::Pause)) {
        ensure!(leader != primary, "{primary} was away for {AWAY:?} and still leads");
    }
    Ok(())
}

/// The primary streams synchronously to the other node, which is in recovery, and Patroni would let it take over. That
/// comes last, a moment after PostgreSQL itself says that the standby is synchronous.
pub(crate) async fn replication_is_right(platform: &Containers) -> anyhow::Result<()> {
    let roles = platform.patroni().await?;
    let standby = roles.sync_standby.as_ref().with_context(|| format!("no node may take over: {roles:?}"))?;
    let rows = platform.psql("SELECT application_name, state, sync_state FROM pg_stat_replication").await?;
    ensure!(rows == format!("{standby}|streaming|sync"), "{} says {rows:?}", roles.leader);
    let query = ["psql", "-h", "/run/postgresql", "-U", "postgres", "-tAc", "SELECT pg_is_in_recovery()"];
    let said = platform.container(standby).run(&query).await?;
    ensure!(said == "t", "{standby} in recovery: {said}");
    Ok(())
}
