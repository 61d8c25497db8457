//! Which worker computes a call next, and the calls that wait for one.
//!
//! A worker computes one call at a time. While the calls of a model are short, a worker that has one may be given more, up to a depth:
//! they are there when it has answered, and it need not sleep. A long call has its worker for itself.
//!
//! Calls never wait for room: a full queue is an answer, and full is a matter of calls or of bytes. They are served in the order in which they
//! came. A call that gives up leaves the queue at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Messages of more bytes are long.
const SHORT_BYTES_MAX: usize = 16 << 10;

/// The workers of a pool, and the calls that wait.
pub(crate) struct Turns<W> {
    state: Mutex<State<W>>,
    waiting_max: usize,
    bytes_max: usize,
    /// Calls that one worker may have.
    depth: AtomicU32,
}

struct State<W> {
    seats: Vec<Seat<W>>,
    waiting: VecDeque<Waiting<W>>,
    /// Of all that wait.
    bytes: usize,
    next_number: u64,
}

struct Seat<W> {
    number: u64,
    worker: Arc<W>,
    calls: u32,
    has_long_call: bool,
}

struct Waiting<W> {
    ticket: u64,
    bytes: usize,
    hand_over: oneshot::Sender<Turn<W>>,
}

/// A worker that a call may use. [`Turns::free`] gives it back.
#[derive(Debug)]
pub(crate) struct Turn<W> {
    /// Of its worker, among those of the pool.
    pub(crate) number: u64,
    pub(crate) worker: Arc<W>,
}

/// What a call gets that asks for a worker.
pub(crate) enum Taken<'t, W> {
    Now(Turn<W>),
    Later(Place<'t, W>),
    /// There is no room to wait.
    Full,
}

/// A place in the queue. Dropping it leaves the queue.
pub(crate) struct Place<'t, W> {
    turns: &'t Turns<W>,
    ticket: u64,
    handed: oneshot::Receiver<Turn<W>>,
}

// === impl Turns ===

impl<W> Turns<W> {
    pub(crate) fn new(waiting_max: usize, bytes_max: usize) -> Self {
        let state =
            State { seats: Vec::new(), waiting: VecDeque::with_capacity(waiting_max), bytes: 0, next_number: 0 };
        Self { state: Mutex::new(state), waiting_max, bytes_max, depth: AtomicU32::new(1) }
    }

    /// From here on so many calls at once may be on one worker, at least one.
    pub(crate) fn set_depth(&self, depth: u32) {
        self.depth.store(depth, Ordering::Relaxed);
    }

    /// A worker that is free, which gets a number.
    pub(crate) fn add(&self, worker: Arc<W>) -> u64 {
        let mut state = self.state.lock();
        let number = state.number();
        state.seats.push(Seat { number, worker, calls: 0, has_long_call: false });
        state.hand_over(number, self.depth.load(Ordering::Relaxed));
        number
    }

    /// The worker with the fewest calls that `may_have` another, or a place in the queue for a call of so many bytes. One call alone may be
    /// of any size: its sender was allowed to.
    pub(crate) fn take(&self, bytes: usize, may_have: impl Fn(&W, u32) -> bool) -> Taken<'_, W> {
        let depth = self.depth.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        let fitting =
            state.seats.iter_mut().filter(|seat| seat.has_room(bytes, depth) && may_have(&seat.worker, seat.calls));
        if let Some(seat) = fitting.min_by_key(|seat| seat.calls) {
            return Taken::Now(seat.take(bytes));
        }
        let bytes_after = state.bytes.saturating_add(bytes);
        let has_room =
            state.waiting.len() < self.waiting_max && (state.waiting.is_empty() || bytes_after <= self.bytes_max);
        if !has_room {
            return Taken::Full;
        }
        let (hand_over, handed) = oneshot::channel();
        let ticket = state.number();
        state.waiting.push_back(Waiting { ticket, bytes, hand_over });
        state.bytes = bytes_after;
        Taken::Later(Place { turns: self, ticket, handed })
    }

    /// Whether a call waits.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.state.lock().waiting.is_empty()
    }

    /// A call of this worker is over. The call that waits longest gets its place.
    pub(crate) fn free(&self, number: u64) {
        let depth = self.depth.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        let Some(seat) = state.seats.iter_mut().find(|seat| seat.number == number) else { return };
        seat.calls = seat.calls.saturating_sub(1);
        seat.has_long_call &= seat.calls > 0;
        state.hand_over(number, depth);
    }

    /// Gives this worker no call any more. It ends with its last.
    pub(crate) fn remove(&self, number: u64) {
        self.state.lock().seats.retain(|seat| seat.number != number);
    }

    /// Sends away all that wait: there will be no worker.
    pub(crate) fn dismiss(&self) {
        let mut state = self.state.lock();
        state.waiting.clear();
        state.bytes = 0;
    }
}

// === impl State ===

impl<W> State<W> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives a worker to calls that wait, as long as it has room for the first of them.
    fn hand_over(&mut self, number: u64, depth: u32) {
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.number == number) else { return };
        while let Some(Waiting { bytes, .. }) = self.waiting.front()
            && seat.has_room(*bytes, depth)
            && let Some(Waiting { bytes, hand_over, .. }) = self.waiting.pop_front()
        {
            self.bytes -= bytes;
            let (calls, had_long_call) = (seat.calls, seat.has_long_call);
            if hand_over.send(seat.take(bytes)).is_err() {
                // It has just given up.
                (seat.calls, seat.has_long_call) = (calls, had_long_call);
            }
        }
    }
}

// === impl Seat ===

impl<W> Seat<W> {
    fn has_room(&self, bytes: usize, depth: u32) -> bool {
        self.calls == 0 || self.calls < depth && !self.has_long_call && bytes <= SHORT_BYTES_MAX
    }

    fn take(&mut self, bytes: usize) -> Turn<W> {
        self.calls += 1;
        self.has_long_call |= bytes > SHORT_BYTES_MAX;
        Turn { number: self.number, worker: Arc::clone(&self.worker) }
    }
}

// === impl Place ===

impl<W> Place<'_, W> {
    /// The worker; none if the queue was dismissed.
    pub(crate) async fn wait(&mut self) -> Option<Turn<W>> {
        (&mut self.handed).await.ok()
    }
}

impl<W> Drop for Place<'_, W> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        if let Some(position) = state.waiting.iter().position(|waiting| waiting.ticket == self.ticket) {
            if let Some(left) = state.waiting.remove(position) {
                state.bytes -= left.bytes;
            }
            return;
        }
        drop(state);
        // A worker was handed over at the same moment: it is for the next.
        self.handed.close();
        if let Ok(turn) = self.handed.try_recv() {
            self.turns.free(turn.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(workers: u32) -> Turns<u32> {
        let turns = Turns::new(2, 100);
        for worker in 0..workers {
            turns.add(Arc::new(worker));
        }
        turns
    }

    fn later(turns: &Turns<u32>, bytes: usize) -> Option<Place<'_, u32>> {
        match turns.take(bytes, |_, _| true) {
            Taken::Later(place) => Some(place),
            Taken::Now(turn) => panic!("worker {} was free", turn.worker),
            Taken::Full => None,
        }
    }

    /// The number of a worker that has room now.
    fn now(turns: &Turns<u32>, bytes: usize) -> Option<u64> {
        match turns.take(bytes, |_, _| true) {
            Taken::Now(turn) => Some(turn.number),
            Taken::Later(_) | Taken::Full => None,
        }
    }

    #[test]
    fn calls_and_their_bytes_are_bounded_but_for_a_first_call() {
        let turns = turns(0);
        let first = later(&turns, 101).unwrap();
        assert!(later(&turns, 1).is_none());
        drop(first);
        let waiting = (later(&turns, 60).unwrap(), later(&turns, 40).unwrap());
        assert!(later(&turns, 0).is_none());
        drop(waiting);
        assert!(later(&turns, 100).is_some());
    }

    #[tokio::test]
    async fn workers_are_handed_over_in_order() {
        let turns = turns(1);
        let number = now(&turns, 1).unwrap();
        let (mut first, mut second) = (later(&turns, 1).unwrap(), later(&turns, 1).unwrap());
        turns.free(number);
        assert_eq!(first.wait().await.map(|turn| turn.number), Some(number));
        let added = turns.add(Arc::new(7));
        assert_eq!(second.wait().await.map(|turn| (turn.number, *turn.worker)), Some((added, 7)));
        assert_eq!(now(&turns, 1), None, "both are taken");
    }

    /// Short calls share a worker, the one with the fewest; a long one is alone.
    #[test]
    fn a_depth_is_for_short_calls() {
        let turns = turns(2);
        turns.set_depth(2);
        let taken: Vec<_> = (0..4).map(|_| now(&turns, SHORT_BYTES_MAX).unwrap()).collect();
        assert_eq!(taken.iter().collect::<std::collections::HashSet<_>>().len(), 2);
        assert_ne!(taken[0], taken[1], "a worker without calls first");
        assert_eq!(now(&turns, 1), None);
        turns.free(taken[0]);
        assert_eq!(now(&turns, SHORT_BYTES_MAX + 1), None, "beside another call");
        turns.free(taken[0]);
        turns.free(taken[0]);
        assert_eq!(now(&turns, SHORT_BYTES_MAX + 1), Some(taken[0]));
        turns.free(taken[1]);
        assert_eq!((now(&turns, 1), now(&turns, 1)), (Some(taken[1]), None), "not beside the long one");
    }

    #[test]
    fn a_removed_worker_gets_no_call() {
        let turns = turns(1);
        let number = now(&turns, 1).unwrap();
        turns.remove(number);
        turns.free(number);
        assert_eq!(now(&turns, 1), None);
    }

    /// A call that gives up leaves no hole: neither its place nor a worker that was handed to it is lost.
    #[tokio::test]
    async fn giving_up_loses_no_place_and_no_worker() {
        let turns = turns(1);
        let number = now(&turns, 1).unwrap();
        let (given_up, mut waiting) = (later(&turns, 50).unwrap(), later(&turns, 50).unwrap());
        turns.free(number);
        drop(given_up);
        assert_eq!(waiting.wait().await.map(|turn| turn.number), Some(number));
        drop(waiting);
        let unused = later(&turns, 50).unwrap();
        turns.free(number);
        drop(unused);
        assert_eq!(now(&turns, 1), Some(number));
    }

    #[tokio::test]
    async fn dismissed_calls_get_nothing() {
        let turns = turns(0);
        let mut place = later(&turns, 50).unwrap();
        turns.dismiss();
        assert!(place.wait().await.is_none());
    }
}
