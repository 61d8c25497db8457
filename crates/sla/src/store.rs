//! All SQL of the ledger.
//!
//! Counts only grow: a report that repeats or trails a known minute changes nothing, and one that contradicts it neither.
//! A change of a minute unseals its hour in the same transaction.

mod hours;
mod minutes;

use std::collections::BTreeMap;

use database::Database;
use serde::Serialize;
use slo::LatencyError;
use time::OffsetDateTime;
use uuid::Uuid;

use self::{hours::SealedRow, minutes::Columns};
use crate::{
    minute::{Minute, Report},
    totals::{HourTotals, WindowTotals, hour_of},
};

/// Hours sealed in one transaction: few enough to be done in the time of one.
const SEALED_AT_ONCE: usize = 24;

/// The ledger in PostgreSQL.
#[derive(Clone)]
pub struct Store {
    database: Database,
}

/// The result of recording a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordResult {
    /// Minutes that were new or grew.
    pub changed: usize,
    /// Minutes that were known already, as they are or further on.
    pub known: usize,
    /// Services and minutes of which one count fell while another grew: neither report is more reliable, and the
    /// known one stays.
    pub contradictions: Vec<(String, OffsetDateTime)>,
}

/// A run of a replica that reported lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceRun {
    /// The replica.
    pub source: String,
    /// Its run.
    pub boot_id: Uuid,
    /// First minute of this run in the asked time.
    #[serde(with = "time::serde::rfc3339")]
    pub first_minute: OffsetDateTime,
    /// Last minute of it.
    #[serde(with = "time::serde::rfc3339")]
    pub last_minute: OffsetDateTime,
    /// When it last reported something new.
    #[serde(with = "time::serde::rfc3339")]
    pub reported_at: OffsetDateTime,
}

/// Why the ledger could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row is not what was written.
    #[error("ledger row of {service} at {start} is damaged")]
    Damaged {
        /// The service.
        service: String,
        /// Minute or hour of the row.
        start: OffsetDateTime,
        /// What is wrong with it.
        source: RowError,
    },
    /// The query failed.
    #[error("ledger query failed")]
    Database(#[from] sqlx::Error),
}

/// What can be wrong with a row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A negative count.
    #[error("count is out of range")]
    Count(#[from] std::num::TryFromIntError),
    /// A histogram that does not decode.
    #[error("latency histogram is damaged")]
    Latency(#[from] LatencyError),
    /// Not sixty minutes.
    #[error("sealed hour does not have sixty minutes")]
    Minutes,
}

// === impl Store ===

impl Store {
    /// The ledger in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Records a report: all of it that does not contradict what is known, in one transaction.
    pub async fn record(&self, report: &Report, now: OffsetDateTime) -> Result<RecordResult, StoreError> {
        let columns = Columns::of(report)?;
        let work = async {
            let mut transaction = self.database.begin().await?;
            let changed = minutes::upsert(&mut transaction, report, &columns, now).await?;
            let contradictions = if changed.len() < report.minutes.len() {
                minutes::contradictions(&mut transaction, report, &columns).await?
            } else {
                Vec::new()
            };
            hours::mark_hours_stale(&mut transaction, &changed).await?;
            transaction.commit().await?;
            let known = report.minutes.len() - changed.len() - contradictions.len();
            Ok(RecordResult { changed: changed.len(), known, contradictions })
        };
        self.database.bounded("record_report", work).await
    }

    /// The first minute of a service's ledger.
    pub async fn first_minute(&self, service: &str) -> Result<Option<OffsetDateTime>, StoreError> {
        self.database.query("first_minute", async |connection| minutes::first_minute(connection, service).await).await
    }

    /// The hours from one on: sealed ones as they are, the open one and any that changed since from their minutes.
    pub async fn ledger(
        &self,
        service: &str,
        from: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<WindowTotals, StoreError> {
        while self.seal_some(service, hour_of(from), hour_of(now)).await? == SEALED_AT_ONCE {}
        let work = async {
            let mut transaction = self.database.begin().await?;
            // Sealed hours and open minutes of one snapshot, or a minute could be in both or in neither.
            hours::begin_read_snapshot(&mut transaction).await?;
            let sealed = hours::sealed_hours(&mut transaction, service, hour_of(from)).await?;
            let open = hours::open_hours(&mut transaction, service, hour_of(from)).await?;
            transaction.commit().await?;
            Ok::<_, StoreError>((sealed, open))
        };
        let (sealed, open) = self.database.bounded("ledger", work).await?;
        let service = service.to_owned();
        // A month of histograms is some ten milliseconds of arithmetic.
        let merging = tokio::task::spawn_blocking(move || merge(&service, sealed, open));
        merging.await.expect("merging hours does not panic")
    }

    /// The minutes from one on, in order, all sources together.
    pub async fn minutes(&self, service: &str, from: OffsetDateTime) -> Result<Vec<Minute>, StoreError> {
        let work = async { minutes::minutes_between(&mut *self.database.acquire().await?, service, from, None).await };
        let mut merged: BTreeMap<OffsetDateTime, Minute> = BTreeMap::new();
        for minute in self.database.bounded("minutes", work).await? {
            match merged.get_mut(&minute.start) {
                Some(known) => {
                    known.counts.add(&minute.counts);
                    known.latencies.merge(&minute.latencies);
                }
                None => drop(merged.insert(minute.start, minute)),
            }
        }
        Ok(merged.into_values().collect())
    }

    /// The runs of replicas that reported a minute from one on, the latest first, at most a hundred.
    pub async fn sources(&self, service: &str, from: OffsetDateTime) -> Result<Vec<SourceRun>, StoreError> {
        self.database.query("sources", async |connection| minutes::sources(connection, service, from).await).await
    }

    /// Sums up some hours that are over and not sealed. Row locks make a report and a seal of one hour take turns.
    async fn seal_some(
        &self,
        service: &str,
        from: OffsetDateTime,
        before: OffsetDateTime,
    ) -> Result<usize, StoreError> {
        let work = async {
            let mut transaction = self.database.begin().await?;
            let hours = hours::lock_unsealed(&mut transaction, service, from, before, SEALED_AT_ONCE).await?;
            for hour in &hours {
                hours::store_hour_sums(&mut transaction, service, *hour).await?;
            }
            transaction.commit().await?;
            Ok(hours.len())
        };
        self.database.bounded("seal_hours", work).await
    }
}

/// Puts both kinds of hours in order and adds them up.
fn merge(service: &str, sealed: Vec<SealedRow>, open: Vec<HourTotals>) -> Result<WindowTotals, StoreError> {
    let mut ledger = WindowTotals::empty();
    let mut open = open.into_iter().peekable();
    for row in sealed {
        while let Some(earlier) = open.next_if(|hour| hour.start < row.hour) {
            ledger.push(&earlier);
        }
        ledger.push(&row.into_hour(service)?);
    }
    open.for_each(|hour| ledger.push(&hour));
    Ok(ledger)
}
