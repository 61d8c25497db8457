//! A bounded queue between many asynchronous callers and a few worker threads.
//!
//! Callers never wait for room: a full queue is an answer. Workers sleep until there is work or the queue is closed,
//! and a closed queue is emptied first, so nothing that was accepted is lost.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A first-in, first-out queue that holds at most so many.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::with_capacity(capacity), closed: false }),
            wake: Condvar::new(),
            capacity,
        }
    }

    /// Takes an item, or gives it back when the queue is full or closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed || state.items.len() >= self.capacity {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for an item; none once the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Takes no more; workers end when what is there is done.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn full_is_told_and_order_is_kept() {
        let queue = Queue::new(2);
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
    }

    #[test]
    fn closing_loses_nothing_and_wakes_everybody() {
        let queue = Arc::new(Queue::new(100));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || std::iter::from_fn(|| queue.pop()).count())
            })
            .collect();
        for item in 0..100 {
            queue.push(item).unwrap();
        }
        queue.close();
        assert_eq!(queue.push(100), Err(100));
        assert_eq!(workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>(), 100);
    }
}
