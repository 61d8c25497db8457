//! Rows of `sla.minutes`: reports upserted, minutes read.

use slo::{Counts, Latencies};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{RowError, SourceRun, StoreError};
use crate::minute::{Minute, Report};

/// A report turned into the arrays that one statement takes.
pub(super) struct Columns {
    services: Vec<String>,
    minutes: Vec<OffsetDateTime>,
    good: Vec<i64>,
    bad: Vec<i64>,
    shed: Vec<i64>,
    client_error: Vec<i64>,
    slow: Vec<i64>,
    latency_histograms: Vec<Vec<u8>>,
}

/// The counts and histogram that rows of minutes and hours share.
pub(super) struct Sums {
    pub(super) good: i64,
    pub(super) bad: i64,
    pub(super) shed: i64,
    pub(super) client_error: i64,
    pub(super) slow: i64,
    pub(super) latency_histogram: Vec<u8>,
}

// === impl Columns ===

impl Columns {
    /// Counts fit, since a report was checked.
    pub(super) fn of(report: &Report) -> Result<Self, StoreError> {
        let column = |count: fn(&Counts) -> u64| {
            let checked = report.minutes.iter().map(|minute| {
                i64::try_from(count(&minute.counts)).map_err(|error| damaged(&minute.service, minute.start, error))
            });
            checked.collect::<Result<Vec<i64>, StoreError>>()
        };
        Ok(Self {
            services: report.minutes.iter().map(|minute| minute.service.clone()).collect(),
            minutes: report.minutes.iter().map(|minute| minute.start).collect(),
            good: column(|counts| counts.good)?,
            bad: column(|counts| counts.bad)?,
            shed: column(|counts| counts.shed)?,
            client_error: column(|counts| counts.client_error)?,
            slow: column(|counts| counts.slow)?,
            latency_histograms: report.minutes.iter().map(|minute| minute.latencies.encode()).collect(),
        })
    }
}

// === impl Sums ===

impl TryFrom<Sums> for (Counts, Latencies) {
    type Error = RowError;

    fn try_from(row: Sums) -> Result<Self, RowError> {
        let counts = Counts {
            good: row.good.try_into()?,
            bad: row.bad.try_into()?,
            shed: row.shed.try_into()?,
            client_error: row.client_error.try_into()?,
            slow: row.slow.try_into()?,
        };
        Ok((counts, Latencies::decode(&row.latency_histogram)?))
    }
}

/// Inserts what is new and replaces what grew; returns those minutes.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    report: &Report,
    columns: &Columns,
    now: OffsetDateTime,
) -> Result<Vec<(String, OffsetDateTime)>, StoreError> {
    let rows = sqlx::query!(
        "INSERT INTO sla.minutes AS known (service, minute, source, boot_id, good, bad, shed, client_error, slow,
                                           latency_histogram, reported_at)
         SELECT sent.service, sent.minute, $1, $2, sent.good, sent.bad, sent.shed, sent.client_error, sent.slow,
                sent.latency_histogram, $3
         FROM unnest($4::text[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                     $10::bigint[], $11::bytea[])
              AS sent (service, minute, good, bad, shed, client_error, slow, latency_histogram)
         ON CONFLICT (service, minute, source, boot_id) DO UPDATE
         SET good = excluded.good, bad = excluded.bad, shed = excluded.shed, client_error = excluded.client_error,
             slow = excluded.slow, latency_histogram = excluded.latency_histogram, reported_at = excluded.reported_at
         WHERE excluded.good >= known.good AND excluded.bad >= known.bad AND excluded.shed >= known.shed
           AND excluded.client_error >= known.client_error AND excluded.slow >= known.slow
           AND (excluded.good, excluded.bad, excluded.shed, excluded.client_error, excluded.slow)
               IS DISTINCT FROM (known.good, known.bad, known.shed, known.client_error, known.slow)
         RETURNING service, minute",
        report.source,
        report.boot_id,
        now,
        &columns.services,
        &columns.minutes,
        &columns.good,
        &columns.bad,
        &columns.shed,
        &columns.client_error,
        &columns.slow,
        &columns.latency_histograms
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.service, row.minute)).collect())
}

/// After the upsert every sent minute is at most the known one, or it fell in one count and grew in another: these.
pub(super) async fn contradictions(
    connection: &mut PgConnection,
    report: &Report,
    columns: &Columns,
) -> Result<Vec<(String, OffsetDateTime)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT known.service, known.minute
         FROM unnest($3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
              AS sent (service, minute, good, bad, shed, client_error, slow)
         JOIN sla.minutes AS known
           ON known.service = sent.service AND known.minute = sent.minute AND known.source = $1 AND known.boot_id = $2
         WHERE sent.good > known.good OR sent.bad > known.bad OR sent.shed > known.shed
            OR sent.client_error > known.client_error OR sent.slow > known.slow",
        report.source,
        report.boot_id,
        &columns.services,
        &columns.minutes,
        &columns.good,
        &columns.bad,
        &columns.shed,
        &columns.client_error,
        &columns.slow
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.service, row.minute)).collect())
}

/// The first minute of a service's ledger.
pub(super) async fn first_minute(
    connection: &mut PgConnection,
    service: &str,
) -> Result<Option<OffsetDateTime>, StoreError> {
    let row = sqlx::query!("SELECT min(minute) AS first FROM sla.minutes WHERE service = $1", service)
        .fetch_one(connection)
        .await?;
    Ok(row.first)
}

/// The runs of replicas that reported a minute from one on.
pub(super) async fn sources(
    connection: &mut PgConnection,
    service: &str,
    from: OffsetDateTime,
) -> Result<Vec<SourceRun>, StoreError> {
    let sources = sqlx::query_as!(
        SourceRun,
        r#"SELECT source, boot_id, min(minute) AS "first_minute!", max(minute) AS "last_minute!",
                  max(reported_at) AS "reported_at!"
           FROM sla.minutes WHERE service = $1 AND minute >= $2
           GROUP BY source, boot_id ORDER BY max(minute) DESC, source LIMIT 100"#,
        service,
        from
    )
    .fetch_all(connection)
    .await?;
    Ok(sources)
}

/// Each source's minutes from one on, up to but without another.
pub(super) async fn minutes_between(
    connection: &mut PgConnection,
    service: &str,
    from: OffsetDateTime,
    until: Option<OffsetDateTime>,
) -> Result<Vec<Minute>, StoreError> {
    let rows = sqlx::query!(
        "SELECT minute, good, bad, shed, client_error, slow, latency_histogram
         FROM sla.minutes WHERE service = $1 AND minute >= $2 AND ($3::timestamptz IS NULL OR minute < $3)
         ORDER BY minute",
        service,
        from,
        until
    )
    .fetch_all(connection)
    .await?;
    let minutes = rows.into_iter().map(|row| {
        let sums = Sums {
            good: row.good,
            bad: row.bad,
            shed: row.shed,
            client_error: row.client_error,
            slow: row.slow,
            latency_histogram: row.latency_histogram,
        };
        let (counts, latencies) = sums.try_into().map_err(|error: RowError| damaged(service, row.minute, error))?;
        Ok(Minute { service: service.to_owned(), start: row.minute, counts, latencies })
    });
    minutes.collect()
}

pub(super) fn damaged(service: &str, start: OffsetDateTime, error: impl Into<RowError>) -> StoreError {
    StoreError::Damaged { service: service.to_owned(), start, source: error.into() }
}
