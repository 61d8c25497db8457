//! A closed-loop load, which measures throughput. Latency is measured by [`crate::recorded_load`].

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::Instant};

use crate::request::{Connection, Server, Template};

/// Latencies are kept from 1 µs to 60 s with three digits.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Failures are many alike; the first few say what is wrong.
const FAILURES_KEPT: usize = 20;

/// Results of a load.
#[derive(Debug)]
pub struct Report {
    /// Calls that were answered well.
    pub good: u64,
    /// Calls that were not.
    pub failed: u64,
    /// The first failures, with the time since the start.
    pub failures: Vec<String>,
    /// Latencies of the good calls, in microseconds.
    pub latency_us: Histogram<u64>,
    /// How long it took.
    pub duration: Duration,
}

/// Keeps `connections` busy with one call each, for `duration`, after `warm_up`.
///
/// # Errors
/// The first connection cannot be made.
pub async fn closed_loop(
    server: &Server,
    template: &Template,
    connections: usize,
    warm_up: Duration,
    duration: Duration,
) -> anyhow::Result<Report> {
    let begin = Instant::now() + warm_up;
    let end = begin + duration;
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let connection = server.connect().await?;
        workers.spawn(closed_worker(server.clone(), template.clone(), connection, begin, end));
    }
    let mut report = Report::new()?;
    while let Some(part) = workers.join_next().await {
        report.add(part??)?;
    }
    report.duration = duration;
    Ok(report)
}

async fn closed_worker(
    server: Server,
    template: Template,
    mut connection: Connection,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Report> {
    let mut report = Report::new()?;
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(report);
        }
        let outcome = connection.call(&template).await.and_then(|answer| template.check(&answer));
        if started >= begin {
            report.record(outcome.as_ref().err(), started.elapsed(), started - begin);
        }
        if outcome.is_err() || !connection.is_usable() {
            connection = server.connect().await?;
        }
    }
}

// === impl Report ===

impl Report {
    fn new() -> anyhow::Result<Self> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).context("histogram")?;
        Ok(Self { good: 0, failed: 0, failures: Vec::new(), latency_us, duration: Duration::ZERO })
    }

    fn record(&mut self, failure: Option<&anyhow::Error>, latency: Duration, at: Duration) {
        match failure {
            None => {
                self.good += 1;
                let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
                self.latency_us.saturating_record(us.max(1));
            }
            Some(error) => {
                self.failed += 1;
                if self.failures.len() < FAILURES_KEPT {
                    self.failures.push(format!(
                        "at {:.2} s after {} ms: {error:#}",
                        at.as_secs_f64(),
                        latency.as_millis()
                    ));
                }
            }
        }
    }

    fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.good += other.good;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURES_KEPT);
        self.latency_us.add(other.latency_us).context("histogram")
    }

    /// Good calls a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
        let good = self.good as f64;
        good / self.duration.as_secs_f64()
    }

    /// A quantile of the latency.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(quantile))
    }

    /// The latest answer.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.latency_us.max())
    }
}
