//! A client that has ended its side of the connection after its request, and perhaps waits for the answer.
//!
//! TLS says that with close_notify. Whether such a client still reads cannot be seen from outside: one that has closed its socket looks
//! the same until something is sent to it, which its machine then answers with a reset. So while there is no answer yet, it is sent
//! `100 Continue` from time to time, which means nothing after a request and which every client skips (RFC 9110, 15.2). A client that ends
//! TCP without close_notify has left: there is no more to read for it, either.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

/// What is sent to find out.
pub(super) const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How often the socket is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Of so many checks one sends the probe; before the first of them most answers are there.
const CHECKS_PER_PROBE: u32 = 4;

/// What is done at a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The client's machine has answered that nothing reads there.
    Gone,
    /// Send the probe.
    Probe,
    /// Wait for the next.
    Wait,
}

/// A connection that its client has ended on its side.
pub(super) struct HalfClose {
    checks: Interval,
    count: u32,
}

// === impl HalfClose ===

impl HalfClose {
    /// The end was read now.
    pub(super) fn begin() -> Self {
        let mut checks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { checks, count: 0 }
    }

    /// Waits for the next check.
    pub(super) fn poll_check(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<Check> {
        ready!(self.checks.poll_tick(cx));
        self.count = self.count.wrapping_add(1);
        let is_gone = !matches!(tcp.take_error(), Ok(None));
        Poll::Ready(match () {
            () if is_gone => Check::Gone,
            () if self.count.is_multiple_of(CHECKS_PER_PROBE) => Check::Probe,
            () => Check::Wait,
        })
    }
}
