//! Waiting for a state, never for a moment: the one place that sleeps, between one look and the next.

use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::time::{Instant, sleep};

const PERIOD: Duration = Duration::from_millis(100);
/// What is asked of containers starts processes there. So that it does not take the processor from what is tested, the pause after
/// an answer is this many times as long as the answer took, but not longer than `PAUSE_MAX`.
const PAUSE_PER_ANSWER: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_secs(2);
const BLOCKING_PERIOD: Duration = Duration::from_millis(20);

/// Asks until it is so: how long that took.
///
/// # Errors
/// It is not so within the limit; the message has the last answer.
pub async fn until(
    what: &str,
    limit: Duration,
    is_so: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    until_every(PERIOD, what, limit, is_so).await
}

/// The same, asking with this period, or a longer one where answers take long.
///
/// # Errors
/// See [`until`].
pub async fn until_every(
    period: Duration,
    what: &str,
    limit: Duration,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        match is_so().await {
            Ok(()) if started.elapsed() <= limit => return Ok(started.elapsed()),
            Ok(()) => bail!("{what}: only after {:?}, and not within {limit:?}", started.elapsed()),
            Err(error) => ensure!(started.elapsed() < limit, "{what}: not within {limit:?}: {error:#}"),
        }
        sleep(period.max(PAUSE_MAX.min(asked.elapsed() * PAUSE_PER_ANSWER))).await;
    }
}

/// Asks for the whole of a time: it must be so each time.
///
/// # Errors
/// It was not so once.
pub async fn throughout(
    period: Duration,
    duration: Duration,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while started.elapsed() < duration {
        is_so().await?;
        sleep(period).await;
    }
    Ok(())
}

/// [`until`] for what does not wait otherwise: the first value that there is, or none within the limit.
///
/// # Errors
/// Asking fails.
pub fn until_blocking<T>(
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let started = Instant::now();
    loop {
        let found = ask()?;
        if found.is_some() || started.elapsed() >= limit {
            return Ok(found);
        }
        std::thread::sleep(BLOCKING_PERIOD);
    }
}
