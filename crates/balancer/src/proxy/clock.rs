//! Whose time a request takes. Time in which more of its body is awaited is the client's, up to the moment at which more
//! arrived; from then on, until the replica has taken it, the time is ours. The client's time counts neither in latencies
//! nor as a time-out; a route's limit is for both together.
//!
//! Known limits:
//!
//! - pingora shows when a part of a body was read, and the front when bytes arrived on the connection. On a connection with
//!   other calls under way, bytes of those that arrive while a replica does not take a part of this body make that time
//!   the client's.
//! - Who is late while a body is unfinished is known when more of it is read. When the route's time is over, that is tried
//!   (`failure`): the client was late if nothing is there. A request that ends otherwise counts as waiting for its client.
//! - The time ends with the last byte of the replica's answer. One that does not fit in the buffers between is read no
//!   faster than by its client.

use std::time::{Duration, Instant};

/// The time of one request, from its head to the end of its answer.
pub(super) struct RequestClock {
    began: Instant,
    body: Body,
    /// The client's time.
    client: Duration,
    /// When the replica's answer was whole.
    answered: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Body {
    /// Nothing of it was asked for, or more of it is here than its replica takes.
    Unread,
    /// More of it is awaited since then.
    Awaited(Instant),
    /// All of it has arrived.
    Received,
}

// === impl RequestClock ===

impl RequestClock {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, body: Body::Unread, client: Duration::ZERO, answered: None }
    }

    /// All of the time so far.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// From now on the body is read.
    pub(super) fn await_body(&mut self, now: Instant) {
        if !self.is_received() {
            self.body = Body::Awaited(now);
        }
    }

    /// A part of the body was read; `arrived` is when the connection had its last bytes.
    pub(super) fn record_part(&mut self, now: Instant, arrived: Option<Instant>, is_last: bool) {
        if let Body::Awaited(since) = self.body {
            self.client += arrived.unwrap_or(since).min(now).saturating_duration_since(since);
            self.body = Body::Awaited(now);
        }
        if is_last {
            self.body = Body::Received;
        }
    }

    /// More of the body is here than the replica takes: it is not the client who is late.
    pub(super) fn stop_awaiting(&mut self) {
        if !self.is_received() {
            self.body = Body::Unread;
        }
    }

    /// The replica has sent all of its answer.
    pub(super) fn record_answered(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
    }

    /// The client has sent all of the request.
    pub(super) fn is_received(&self) -> bool {
        matches!(self.body, Body::Received)
    }

    /// The time that the request took without the client's.
    pub(super) fn own(&self, now: Instant) -> Duration {
        let end = self.answered.unwrap_or(now);
        self.elapsed(end).saturating_sub(self.client_until(end))
    }

    /// Whether a request whose time is over waited for its client most of it.
    pub(super) fn is_late_by_client(&self, now: Instant) -> bool {
        self.own(now) < self.elapsed(now) / 2
    }

    fn client_until(&self, end: Instant) -> Duration {
        match self.body {
            Body::Awaited(since) => self.client + end.saturating_duration_since(since),
            Body::Unread | Body::Received => self.client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn waits_for_the_client_are_not_our_time() {
        let began = Instant::now();
        let at = |after_s| began + seconds(after_s);
        let mut clock = RequestClock::new(began);
        // A gateway was asked for a second; the body came over 20 s, and was answered 2 s later.
        clock.await_body(at(1));
        clock.record_part(at(11), Some(at(11)), false);
        clock.record_part(at(21), Some(at(21)), true);
        assert!(clock.is_received());
        assert_eq!((clock.own(at(23)), clock.elapsed(at(23))), (seconds(3), seconds(23)));
        assert!(clock.is_late_by_client(at(23)));
        assert!(!clock.is_late_by_client(at(60)));
    }

    #[test]
    fn a_part_that_waits_for_its_replica_is_our_time() {
        let began = Instant::now();
        let at = |after_s| began + seconds(after_s);
        let mut clock = RequestClock::new(began);
        clock.await_body(at(0));
        clock.record_part(at(1), Some(at(1)), false);
        // The next one was there a second later, and not read for ten more: the replica did not take the one before.
        clock.record_part(at(12), Some(at(2)), true);
        assert_eq!(clock.own(at(12)), seconds(10));
        assert!(!clock.is_late_by_client(at(12)));
    }

    #[test]
    fn an_unfinished_body_is_late_by_its_client_unless_the_replica_takes_nothing() {
        let began = Instant::now();
        let at = |after_s| began + seconds(after_s);
        let mut clock = RequestClock::new(began);
        assert_eq!(clock.own(at(5)), seconds(5), "nothing was asked of the client");
        clock.await_body(at(5));
        clock.record_part(at(6), Some(at(6)), false);
        assert_eq!(clock.own(at(30)), seconds(5));
        assert!(clock.is_late_by_client(at(30)));
        clock.stop_awaiting();
        assert_eq!(clock.own(at(30)), seconds(29));
    }

    #[test]
    fn the_end_of_an_answer_that_the_client_does_not_read_is_not_our_time() {
        let began = Instant::now();
        let at = |after_s| began + seconds(after_s);
        let mut clock = RequestClock::new(began);
        clock.await_body(at(0));
        clock.record_part(at(0), None, true);
        clock.record_answered(at(1));
        clock.record_answered(at(2));
        assert_eq!(clock.own(at(30)), seconds(1));
        assert!(clock.is_late_by_client(at(30)));
    }
}
