//! Reading on after an answer that came before the end of its request, so that the answer arrives.
//!
//! A client may send all of a long body before it looks for an answer. Over HTTP/1.1 a socket that is closed with unread bytes
//! sends a reset, and over HTTP/2 many clients take the reset of a stream for a failure: either way the answer is lost. What is read on
//! is thrown away, and bounded: who sends more, more slowly or for longer loses the connection, or gets the reset (RFC 9113, 8.1).

use std::time::Duration;

use tokio::time::{Instant, timeout};

/// In all.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Without a byte.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// In all: several times as much as any route but that of model files takes.
const BYTES_MAX: usize = 128 << 20;

/// What is left of the bounds for one request.
pub(crate) struct Linger {
    ends: Instant,
    bytes_left: usize,
}

// === impl Linger ===

impl Linger {
    /// The answer is written now.
    pub(crate) fn begin() -> Self {
        Self { ends: Instant::now() + TIME_MAX, bytes_left: BYTES_MAX }
    }

    /// Waits for a read, which gives a number of bytes, 0 at the end. Returns whether to read on after it.
    pub(crate) async fn goes_on_after(&mut self, read: impl Future<Output = usize>) -> bool {
        let wait_max = PAUSE_MAX.min(self.ends.saturating_duration_since(Instant::now()));
        let bytes = timeout(wait_max, read).await.unwrap_or(0);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        bytes > 0 && self.bytes_left > 0
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_request_and_at_each_bound() {
        assert!(!Linger::begin().goes_on_after(ready(0)).await, "the request has ended");
        let began = Instant::now();
        assert!(!Linger::begin().goes_on_after(pending()).await);
        assert_eq!(began.elapsed(), PAUSE_MAX);

        let mut linger = Linger::begin();
        assert!(linger.goes_on_after(ready(BYTES_MAX - 1)).await);
        assert!(!linger.goes_on_after(ready(1)).await);

        let (began, mut linger) = (Instant::now(), Linger::begin());
        let trickle = async || {
            tokio::time::sleep(PAUSE_MAX / 2).await;
            1
        };
        while linger.goes_on_after(trickle()).await {}
        assert_eq!(began.elapsed(), TIME_MAX);
    }
}
