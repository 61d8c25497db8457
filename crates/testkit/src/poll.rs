//! Waiting for a state, never for a moment.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const PERIOD: Duration = Duration::from_millis(10);

/// Asks until the answer is yes. Panics, saying what was waited for, when it is not within `limit`.
pub async fn poll_until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(PERIOD).await;
    }
}
