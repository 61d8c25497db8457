//! The workers that are free, and the calls that wait for one.
//!
//! Calls never wait for room: a full queue is an answer, and full is a matter of calls or of bytes. They are served in the order in which they
//! came. A call that gives up leaves the queue at once.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Free workers, or waiting calls; never both.
pub(crate) struct Idle<W> {
    state: Mutex<State<W>>,
    waiting_max: usize,
    bytes_max: usize,
}

struct State<W> {
    workers: Vec<W>,
    waiting: VecDeque<Waiting<W>>,
    /// Of all that wait.
    bytes: usize,
    next_ticket: u64,
}

struct Waiting<W> {
    ticket: u64,
    bytes: usize,
    hand_over: oneshot::Sender<W>,
}

/// What a call gets that asks for a worker.
pub(crate) enum Turn<'i, W> {
    Now(W),
    Later(Place<'i, W>),
    /// There is no room to wait.
    Full,
}

/// A place in the queue. Dropping it leaves the queue.
pub(crate) struct Place<'i, W> {
    idle: &'i Idle<W>,
    ticket: u64,
    handed: oneshot::Receiver<W>,
}

// === impl Idle ===

impl<W> Idle<W> {
    pub(crate) fn new(waiting_max: usize, bytes_max: usize) -> Self {
        let state =
            State { workers: Vec::new(), waiting: VecDeque::with_capacity(waiting_max), bytes: 0, next_ticket: 0 };
        Self { state: Mutex::new(state), waiting_max, bytes_max }
    }

    /// A worker that `is_good`, or a place in the queue for a call of so many bytes. One call alone may be of any size: its sender was
    /// allowed to.
    pub(crate) fn take(&self, bytes: usize, is_good: impl Fn(&W) -> bool) -> Turn<'_, W> {
        let mut state = self.state.lock();
        while let Some(worker) = state.workers.pop() {
            if is_good(&worker) {
                return Turn::Now(worker);
            }
        }
        let bytes_after = state.bytes.saturating_add(bytes);
        let has_room =
            state.waiting.len() < self.waiting_max && (state.waiting.is_empty() || bytes_after <= self.bytes_max);
        if !has_room {
            return Turn::Full;
        }
        let (hand_over, handed) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(Waiting { ticket, bytes, hand_over });
        state.bytes = bytes_after;
        Turn::Later(Place { idle: self, ticket, handed })
    }

    /// Gives a free worker to the call that waits longest, or keeps it.
    pub(crate) fn put(&self, mut worker: W) {
        let mut state = self.state.lock();
        while let Some(Waiting { bytes, hand_over, .. }) = state.waiting.pop_front() {
            state.bytes -= bytes;
            match hand_over.send(worker) {
                Ok(()) => return,
                Err(refused) => worker = refused,
            }
        }
        state.workers.push(worker);
    }

    /// Drops the free workers that are not `is_good`.
    pub(crate) fn retain(&self, is_good: impl Fn(&W) -> bool) {
        self.state.lock().workers.retain(is_good);
    }

    /// Sends away all that wait: there will be no worker.
    pub(crate) fn dismiss(&self) {
        let mut state = self.state.lock();
        state.waiting.clear();
        state.bytes = 0;
    }
}

// === impl Place ===

impl<W> Place<'_, W> {
    /// The worker; none if the queue was dismissed.
    pub(crate) async fn wait(&mut self) -> Option<W> {
        (&mut self.handed).await.ok()
    }
}

impl<W> Drop for Place<'_, W> {
    fn drop(&mut self) {
        let mut state = self.idle.state.lock();
        if let Some(position) = state.waiting.iter().position(|waiting| waiting.ticket == self.ticket) {
            if let Some(left) = state.waiting.remove(position) {
                state.bytes -= left.bytes;
            }
            return;
        }
        drop(state);
        // A worker was handed over at the same moment: it is for the next.
        self.handed.close();
        if let Ok(worker) = self.handed.try_recv() {
            self.idle.put(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later<'i>(idle: &'i Idle<u32>, bytes: usize) -> Option<Place<'i, u32>> {
        match idle.take(bytes, |_| true) {
            Turn::Later(place) => Some(place),
            Turn::Now(worker) => panic!("worker {worker} was free"),
            Turn::Full => None,
        }
    }

    fn now(idle: &Idle<u32>) -> Option<u32> {
        match idle.take(1, |worker| worker % 2 == 1) {
            Turn::Now(worker) => Some(worker),
            Turn::Later(_) | Turn::Full => None,
        }
    }

    #[test]
    fn calls_and_their_bytes_are_bounded_but_for_a_first_call() {
        let idle = Idle::new(2, 100);
        let first = later(&idle, 101).unwrap();
        assert!(later(&idle, 1).is_none());
        drop(first);
        let waiting = (later(&idle, 60).unwrap(), later(&idle, 40).unwrap());
        assert!(later(&idle, 0).is_none());
        drop(waiting);
        assert!(later(&idle, 100).is_some());
    }

    #[tokio::test]
    async fn workers_are_handed_over_in_order_and_bad_ones_dropped() {
        let idle = Idle::new(9, 100);
        let (mut first, mut second) = (later(&idle, 1).unwrap(), later(&idle, 1).unwrap());
        idle.put(1);
        idle.put(3);
        assert_eq!((first.wait().await, second.wait().await), (Some(1), Some(3)));
        idle.put(5);
        idle.put(4);
        assert_eq!((now(&idle), now(&idle)), (Some(5), None));
    }

    /// A call that gives up leaves no hole: neither its place nor a worker that was handed to it is lost.
    #[tokio::test]
    async fn giving_up_loses_no_place_and_no_worker() {
        let idle = Idle::new(2, 100);
        let (given_up, mut waiting) = (later(&idle, 50).unwrap(), later(&idle, 50).unwrap());
        idle.put(1);
        drop(given_up);
        assert_eq!(waiting.wait().await, Some(1));
        drop(waiting);
        let unused = later(&idle, 50).unwrap();
        idle.put(3);
        drop(unused);
        assert_eq!(now(&idle), Some(3));
    }

    #[tokio::test]
    async fn dismissed_calls_get_nothing() {
        let idle = Idle::new(2, 100);
        let mut place = later(&idle, 50).unwrap();
        idle.dismiss();
        assert_eq!(place.wait().await, None);
    }
}
