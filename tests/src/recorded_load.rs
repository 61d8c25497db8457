//! An open-loop load at a fixed rate, as well-behaved clients make it. Every call is recorded, so that figures can be had of
//! each part of a long run.
//!
//! A call has a time at which it is due, and its latency counts from there. Connections are pooled alive for a while. A call
//! whose connection breaks is sent once more on a new one; a call that was answered, whatever the answer, is not, and
//! neither is one that was waited for too long.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, error::Elapsed, interval_at},
};

use crate::{
    poll::until_every,
    request::{Connection, Server, Template},
};

/// Of each kind; so many that both balancers have some.
const CONNECTIONS: u32 = 8;
/// Clients come and go, so a balancer that comes back gets its share again.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10);
/// Two tries of ten seconds each, and a moment.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
const POLL_PERIOD: Duration = Duration::from_millis(20);
/// Failures are many alike; the first few say what is wrong.
const FAILURES_SHOWN: usize = 5;

/// One kind of call: the server and the request.
#[derive(Clone)]
pub struct CallKind {
    /// The server.
    pub server: Server,
    /// The request and its right answer.
    pub template: Template,
}

/// A load that runs until it is dropped.
pub struct RecordedLoad {
    begin: Instant,
    interval: Duration,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Results of the calls that were due between two moments.
#[derive(Debug)]
pub struct Figures {
    /// All of them.
    pub calls: usize,
    /// Those that were answered wrongly or not at all.
    pub failed: usize,
    /// Those that were sent a second time.
    pub retried: usize,
    /// The latest answer, right or wrong.
    pub slowest: Duration,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest time in which no call that was due was answered rightly: from the first such to the next good one.
    pub outage: Duration,
    /// The first failures, with the moment at which each was due.
    pub failures: Vec<String>,
}

struct Shared {
    kinds: Mutex<Vec<CallKind>>,
    pools: Vec<Mutex<VecDeque<PooledConnection>>>,
    /// By the number of the call; none while it is under way.
    samples: Mutex<Vec<Option<Sample>>>,
}

/// A connection that waits for the next call.
struct PooledConnection {
    connection: Connection,
    until: Instant,
}

#[derive(Clone)]
struct Sample {
    latency: Duration,
    is_retried: bool,
    failure: Option<String>,
}

// === impl RecordedLoad ===

impl RecordedLoad {
    /// Sends `rate` calls a second from now on, of each kind in turn.
    ///
    /// # Errors
    /// No connection can be made.
    pub async fn start(kinds: Vec<CallKind>, rate: u32) -> anyhow::Result<Self> {
        let mut pools = Vec::new();
        for kind in &kinds {
            let mut pool = VecDeque::new();
            for index in 0..CONNECTIONS {
                let connection = kind.server.connect().await?;
                // Not all of one age, or they would all be replaced at once.
                let until = Instant::now() + CONNECTION_AGE_MAX * index / CONNECTIONS;
                pool.push_back(PooledConnection { connection, until });
            }
            pools.push(Mutex::new(pool));
        }
        let shared = Arc::new(Shared { kinds: Mutex::new(kinds), pools, samples: Mutex::new(Vec::new()) });
        let (begin, interval) = (Instant::now(), Duration::from_secs(1) / rate);
        let task = tokio::spawn(send_all(shared.clone(), begin, interval)).abort_handle();
        Ok(Self { begin, interval, shared, task })
    }

    /// From now on with this token: they end.
    ///
    /// # Errors
    /// The token cannot be a header.
    pub fn use_token(&self, token: &str) -> anyhow::Result<()> {
        for kind in lock(&self.shared.kinds).iter_mut() {
            kind.template.use_token(token)?;
        }
        Ok(())
    }

    /// The moment, for [`RecordedLoad::figures`].
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Lets the load go on: waits until the calls that are due within `duration` have been sent.
    ///
    /// # Errors
    /// They are not sent.
    pub async fn go_on(&self, duration: Duration) -> anyhow::Result<()> {
        let end = self.index(self.now() + duration)?;
        let all_are_sent = async || {
            ensure!(lock(&self.shared.samples).len() >= end, "{end} calls");
            Ok(())
        };
        until_every(POLL_PERIOD, "calls are sent", duration + ANSWER_LIMIT, all_are_sent).await.map(drop)
    }

    /// Results of the calls that were due between these moments. Waits for the last of them.
    ///
    /// # Errors
    /// A call has neither been answered nor failed.
    pub async fn figures(&self, from: Duration, to: Duration) -> anyhow::Result<Figures> {
        let (first, end) = (self.index(from)?, self.index(to)?);
        let mut samples = Vec::new();
        until_every(POLL_PERIOD, "calls end", ANSWER_LIMIT, async || {
            let ended: Option<Vec<Sample>> =
                lock(&self.shared.samples).get(first..end).and_then(|samples| samples.iter().cloned().collect());
            samples = ended.with_context(|| format!("a call between {from:?} and {to:?} neither ended nor failed"))?;
            Ok(())
        })
        .await?;
        Figures::of(&samples, from, self.interval)
    }

    /// The number of the first call that is due at this moment or later.
    fn index(&self, moment: Duration) -> anyhow::Result<usize> {
        Ok(usize::try_from(moment.as_nanos().div_ceil(self.interval.as_nanos()))?)
    }
}

impl Drop for RecordedLoad {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send_all(shared: Arc<Shared>, begin: Instant, interval: Duration) {
    let mut calls = JoinSet::new();
    // A tick that is missed is made up for at once: the load is open-loop.
    let mut ticks = interval_at(begin, interval);
    for number in 0_usize.. {
        let due = ticks.tick().await;
        lock(&shared.samples).push(None);
        calls.spawn(shared.clone().send(number, due));
        while calls.try_join_next().is_some() {}
    }
}

// === impl Shared ===

impl Shared {
    async fn send(self: Arc<Self>, number: usize, due: Instant) {
        let index = number.checked_rem(self.pools.len()).unwrap_or(0);
        let kind = lock(&self.kinds).get(index).cloned();
        let mut is_retried = false;
        let outcome = match (kind, self.pools.get(index)) {
            (Some(kind), Some(pool)) => call(&kind, pool, &mut is_retried).await,
            _ => Err(anyhow::anyhow!("no such kind of call")),
        };
        let failure = outcome.err().map(|error| format!("{error:#}"));
        let sample = Sample { latency: due.elapsed(), is_retried, failure };
        if let Some(place) = lock(&self.samples).get_mut(number) {
            *place = Some(sample);
        }
    }
}

async fn call(kind: &CallKind, pool: &Mutex<VecDeque<PooledConnection>>, is_retried: &mut bool) -> anyhow::Result<()> {
    let answer = match attempt(kind, pool, take(pool)).await {
        Err(error) if error.downcast_ref::<Elapsed>().is_none() => {
            *is_retried = true;
            attempt(kind, pool, None).await.with_context(|| format!("again, after: {error:#}"))
        }
        outcome => outcome,
    };
    kind.template.check(&answer?)
}

async fn attempt(
    kind: &CallKind,
    pool: &Mutex<VecDeque<PooledConnection>>,
    pooled: Option<PooledConnection>,
) -> anyhow::Result<crate::request::HttpResponse> {
    let mut pooled = match pooled {
        Some(pooled) => pooled,
        None => {
            let connection = kind.server.connect().await?;
            PooledConnection { connection, until: Instant::now() + CONNECTION_AGE_MAX }
        }
    };
    let shared = pooled.connection.share();
    let is_shared = shared.is_some();
    if let Some(connection) = shared {
        lock(pool).push_back(PooledConnection { connection, until: pooled.until });
    }
    let answer = pooled.connection.call(&kind.template).await?;
    if !is_shared {
        lock(pool).push_back(pooled);
    }
    Ok(answer)
}

/// None when a new one must take the place of the next.
fn take(pool: &Mutex<VecDeque<PooledConnection>>) -> Option<PooledConnection> {
    let next = lock(pool).pop_front()?;
    (next.connection.is_usable() && Instant::now() < next.until).then_some(next)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Figures ===

impl Figures {
    fn of(samples: &[Sample], from: Duration, interval: Duration) -> anyhow::Result<Self> {
        ensure!(!samples.is_empty(), "no call was due");
        let mut latencies: Vec<Duration> = samples.iter().map(|sample| sample.latency).collect();
        latencies.sort();
        let quantile = |part: usize| latencies.get((latencies.len() - 1) * part / 100).copied().unwrap_or_default();
        let failed: Vec<(usize, &String)> =
            samples.iter().enumerate().filter_map(|(index, sample)| Some((index, sample.failure.as_ref()?))).collect();
        let shown = failed.iter().take(FAILURES_SHOWN);
        let due = |index: usize| (from + interval * u32::try_from(index).unwrap_or(u32::MAX)).as_secs_f64();
        Ok(Self {
            calls: samples.len(),
            failed: failed.len(),
            retried: samples.iter().filter(|sample| sample.is_retried).count(),
            slowest: quantile(100),
            p50: quantile(50),
            p99: quantile(99),
            outage: outage(samples, interval),
            failures: shown.map(|(index, failure)| format!("due at {:.2} s: {failure}", due(*index))).collect(),
        })
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "{} calls, {} failed, {} retried, slowest {} ms, p50 {} ms, p99 {} ms",
            self.calls,
            self.failed,
            self.retried,
            self.slowest.as_millis(),
            self.p50.as_millis(),
            self.p99.as_millis()
        )
    }
}

/// The longest run of failed calls, as the time until the next good answer. A run that has no such answer counts whole.
fn outage(samples: &[Sample], interval: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    let mut began = None;
    for (index, sample) in samples.iter().enumerate() {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        match (&sample.failure, began) {
            (Some(_), None) => began = Some(index),
            (Some(_), Some(_)) => {}
            (None, Some(first)) => {
                longest = longest.max(interval * (index - first) + sample.latency);
                began = None;
            }
            (None, None) => longest = longest.max(sample.latency),
        }
    }
    let last = u32::try_from(samples.len()).unwrap_or(u32::MAX);
    began.map_or(longest, |first| longest.max(interval * (last - first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(latency_ms: u64, failure: Option<&str>) -> Sample {
        let failure = failure.map(ToOwned::to_owned);
        Sample { latency: Duration::from_millis(latency_ms), is_retried: false, failure }
    }

    #[test]
    fn figures_are_those_of_the_calls() {
        let interval = Duration::from_millis(5);
        let mut samples: Vec<Sample> = (1..=100).map(|ms| sample(ms, None)).collect();
        let figures = Figures::of(&samples, Duration::ZERO, interval).unwrap();
        let (p50, p99) = (Duration::from_millis(50), Duration::from_millis(99));
        assert_eq!((figures.p50, figures.p99, figures.slowest), (p50, p99, Duration::from_millis(100)));
        assert_eq!((figures.failed, figures.outage), (0, Duration::from_millis(100)));

        // Due at 500 and 505 ms, and the next one is answered 40 ms after it was due at 510 ms.
        samples.extend([sample(3, Some("reset")), sample(3, Some("reset")), sample(120, None)]);
        let figures = Figures::of(&samples, Duration::ZERO, interval).unwrap();
        assert_eq!((figures.failed, figures.outage), (2, Duration::from_millis(130)));
        assert_eq!(figures.failures.first().unwrap(), "due at 0.50 s: reset");
    }
}
