//! Background jobs: idempotent, independent of each other, until stopped.

use std::{sync::Arc, time::Duration};

use service::{Latch, Readiness};
use sqlx::migrate::MigrateError;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    audit::{AuditEvent, EventKind, GENESIS, Hash, verify_chain},
    auth_state::{AuthState, follow, listen},
    metrics,
    store::Store,
};

/// How long denials are gathered before they are written.
const GATHER: Duration = Duration::from_secs(1);

const AGE_PERIOD: Duration = Duration::from_secs(1);

const PRUNE_PERIOD: Duration = Duration::from_secs(60);

const VERIFY_PERIOD: Duration = Duration::from_secs(5 * 60);

/// Records that are verified at once.
const VERIFY_BATCH: i64 = 1_000;

/// Migrates the schema, then follows the change feed on the connections of `feed` and runs the other jobs until stopped.
pub(crate) async fn run(
    app: Arc<App>,
    feed: Store,
    known: Latch,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), MigrateError> {
    match stop.run_until_cancelled(app.store.migrate()).await {
        Some(migrated) => migrated?,
        None => return Ok(()),
    }
    let auth_state = Arc::clone(&app.auth_state);
    let open = async {
        if auth_state.wait_loaded(&stop).await {
            known.open();
        }
    };
    tokio::join!(
        open,
        follow(Arc::clone(&auth_state), feed.clone(), app.clock.clone(), stop.clone()),
        listen(Arc::clone(&auth_state), feed, stop.clone()),
        report_age(Arc::clone(&auth_state), readiness, stop.clone()),
        prune(Arc::clone(&app), stop.clone()),
        verify_audit(Arc::clone(&app), stop.clone()),
    );
    Ok(())
}

/// Writes denials to the audit log, a second's worth at a time; the rest when the process stops.
pub(crate) async fn write_denials(app: Arc<App>, stop: CancellationToken) {
    loop {
        let is_last = stop.run_until_cancelled(app.denials.arrived()).await.is_none()
            || stop.run_until_cancelled(tokio::time::sleep(GATHER)).await.is_none();
        write(&app).await;
        if is_last {
            return;
        }
    }
}

async fn write(app: &App) {
    let events = app.denials.take();
    if events.is_empty() {
        return;
    }
    match app.store.record(&events).await {
        Ok(()) => metrics::audit_dropped(dropped(&events)),
        Err(error) => {
            app.denials.count_dropped(&events);
            tracing::warn!(error = %problem::Chain(&error), "refused requests could not be written to the audit log; their details are lost and only their number will be recorded");
        }
    }
}

/// How many denials are in the log as a number only.
fn dropped(events: &[AuditEvent]) -> u64 {
    let dropped = events.iter().filter(|event| event.kind == EventKind::DroppedRecords);
    dropped.filter_map(|event| event.details.get("count")?.as_u64()).sum()
}

/// Exports the age of the auth state, and reports in `/ready` when it is stale.
async fn report_age(auth_state: Arc<AuthState>, readiness: Readiness, stop: CancellationToken) {
    let mut ticks = every(AGE_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(age) = auth_state.age() else { continue };
        metrics::auth_state_age(age);
        let stale = "stale: callers are judged by what is known, nothing is changed";
        readiness.set_degraded("users and revocations", (!auth_state.is_fresh()).then_some(stale));
    }
}

/// Deletes expired sessions and feed entries, and forgets the rates of machines that are quiet.
async fn prune(app: Arc<App>, stop: CancellationToken) {
    let mut ticks = every(PRUNE_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        app.machine_rate.retain_recent();
        match stop.run_until_cancelled(app.store.prune()).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(rows)) => tracing::debug!(rows, "expired sessions and feed entries were deleted"),
            Some(Err(error)) => {
                tracing::debug!(error = %problem::Chain(&error), "expired sessions and feed entries could not be deleted now")
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Verifies this gateway's audit chain, from the beginning at first and then what was added. A restore of the database takes
/// records away and lets the chain go on from an earlier one, so it is verified from the beginning again.
async fn verify_audit(app: Arc<App>, stop: CancellationToken) {
    let mut proven = (0, GENESIS);
    let mut ticks = every(VERIFY_PERIOD);
    let mut restores = app.auth_state.restores();
    loop {
        let turn = async {
            tokio::select! {
                Ok(()) = restores.changed() => true,
                _ = ticks.tick() => false,
            }
        };
        let Some(is_restored) = stop.run_until_cancelled(turn).await else { return };
        if is_restored {
            proven = (0, GENESIS);
        }
        let Some(reached) = stop.run_until_cancelled(verify(&app, proven)).await else { return };
        proven = reached;
    }
}

async fn verify(app: &App, mut proven: (i64, Hash)) -> (i64, Hash) {
    loop {
        let records = match app.store.audit_chain(app.store.writer(), proven.0, VERIFY_BATCH).await {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(error = %problem::Chain(&error), "the audit chain could not be read; it is verified at the next turn");
                return proven;
            }
        };
        match verify_chain(proven, &records) {
            Ok(reached) => proven = reached,
            Err(broken) => {
                metrics::audit_chain_broken();
                tracing::error!(%broken, "the audit log was tampered with; keep the database as it is and investigate");
                return proven;
            }
        }
        if i64::try_from(records.len()) != Ok(VERIFY_BATCH) {
            tracing::debug!(records = proven.0, "the audit chain was verified");
            return proven;
        }
    }
}
