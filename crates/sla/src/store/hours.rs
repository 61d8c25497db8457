//! Rows of `sla.hours`: hours that are over are summed up once (`sealed`); a changed minute marks its hour to be summed up anew.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::{
    RowError, StoreError,
    minutes::{Sums, damaged, minutes_between},
};
use crate::totals::{HourTotals, hour_of};

/// How sealed hours store a minute without a report.
const UNKNOWN_MINUTE: i64 = -1;

/// A row of `sla.hours`.
pub(super) struct SealedRow {
    pub(super) hour: OffsetDateTime,
    sums: Sums,
    minutes: Vec<i64>,
}

// === impl SealedRow ===

impl SealedRow {
    /// The hour, if the row is as it was written.
    pub(super) fn into_hour(self, service: &str) -> Result<HourTotals, StoreError> {
        let start = self.hour;
        self.try_into().map_err(|error: RowError| damaged(service, start, error))
    }
}

impl TryFrom<SealedRow> for HourTotals {
    type Error = RowError;

    fn try_from(row: SealedRow) -> Result<Self, RowError> {
        let (counts, latencies) = row.sums.try_into()?;
        let minutes: Vec<Option<u64>> = row.minutes.into_iter().map(|requests| u64::try_from(requests).ok()).collect();
        let minutes = minutes.try_into().map_err(|_| RowError::Minutes)?;
        Ok(Self { start: row.hour, counts, latencies, minutes })
    }
}

/// Marks hours of changed minutes, so that they are summed up anew.
pub(super) async fn mark_hours_stale(
    connection: &mut PgConnection,
    changed: &[(String, OffsetDateTime)],
) -> Result<(), StoreError> {
    let mut hours: Vec<_> = changed.iter().map(|(service, minute)| (service.clone(), hour_of(*minute))).collect();
    // Every transaction locks rows in this order.
    hours.sort();
    hours.dedup();
    let (services, starts): (Vec<String>, Vec<OffsetDateTime>) = hours.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO sla.hours (service, hour)
         SELECT changed.service, changed.hour FROM unnest($1::text[], $2::timestamptz[]) AS changed (service, hour)
         ON CONFLICT (service, hour) DO UPDATE SET sealed = false",
        &services,
        &starts
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// From here on this transaction reads one snapshot.
pub(super) async fn begin_read_snapshot(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(connection).await?;
    Ok(())
}

/// Locks hours that are over and not sealed, in the order of every other transaction.
pub(super) async fn lock_unsealed(
    connection: &mut PgConnection,
    service: &str,
    from: OffsetDateTime,
    before: OffsetDateTime,
    limit: usize,
) -> Result<Vec<OffsetDateTime>, StoreError> {
    let rows = sqlx::query!(
        "SELECT hour FROM sla.hours WHERE service = $1 AND hour >= $2 AND hour < $3 AND NOT sealed
         ORDER BY hour LIMIT $4 FOR UPDATE",
        service,
        from,
        before,
        i64::try_from(limit).unwrap_or(i64::MAX)
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.hour).collect())
}

/// Sums an hour up and stores the sums.
pub(super) async fn store_hour_sums(
    connection: &mut PgConnection,
    service: &str,
    start: OffsetDateTime,
) -> Result<(), StoreError> {
    let hour = hour_of_minutes(connection, service, start).await?;
    let count = |count: u64| i64::try_from(count).map_err(|error| damaged(service, start, error));
    let minutes: Vec<i64> = hour
        .minutes
        .iter()
        .map(|requests| requests.map_or(Ok(UNKNOWN_MINUTE), count))
        .collect::<Result<_, StoreError>>()?;
    sqlx::query!(
        "UPDATE sla.hours
         SET sealed = true, good = $3, bad = $4, shed = $5, client_error = $6, slow = $7, latency_histogram = $8,
             minutes = $9
         WHERE service = $1 AND hour = $2",
        service,
        start,
        count(hour.counts.good)?,
        count(hour.counts.bad)?,
        count(hour.counts.shed)?,
        count(hour.counts.client_error)?,
        count(hour.counts.slow)?,
        hour.latencies.encode(),
        &minutes
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sealed hours from one on.
pub(super) async fn sealed_hours(
    connection: &mut PgConnection,
    service: &str,
    from: OffsetDateTime,
) -> Result<Vec<SealedRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT hour, good, bad, shed, client_error, slow, latency_histogram, minutes
         FROM sla.hours WHERE service = $1 AND hour >= $2 AND sealed ORDER BY hour",
        service,
        from
    )
    .fetch_all(connection)
    .await?;
    let hours = rows.into_iter().map(|row| SealedRow {
        hour: row.hour,
        sums: Sums {
            good: row.good,
            bad: row.bad,
            shed: row.shed,
            client_error: row.client_error,
            slow: row.slow,
            latency_histogram: row.latency_histogram,
        },
        minutes: row.minutes,
    });
    Ok(hours.collect())
}

/// Hours from one on that are not sealed.
pub(super) async fn open_hours(
    connection: &mut PgConnection,
    service: &str,
    from: OffsetDateTime,
) -> Result<Vec<HourTotals>, StoreError> {
    let open = sqlx::query!(
        "SELECT hour FROM sla.hours WHERE service = $1 AND hour >= $2 AND NOT sealed ORDER BY hour",
        service,
        from
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut hours = Vec::with_capacity(open.len());
    for row in open {
        hours.push(hour_of_minutes(connection, service, row.hour).await?);
    }
    Ok(hours)
}

async fn hour_of_minutes(
    connection: &mut PgConnection,
    service: &str,
    start: OffsetDateTime,
) -> Result<HourTotals, StoreError> {
    let mut hour = HourTotals::unknown(start);
    for minute in minutes_between(connection, service, start, Some(start + Duration::HOUR)).await? {
        hour.add(minute.start, &minute.counts, &minute.latencies);
    }
    Ok(hour)
}
