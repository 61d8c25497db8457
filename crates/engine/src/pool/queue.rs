//! A bounded queue between many asynchronous callers and a few worker threads.
//!
//! Callers never wait for room: a full queue is an answer, and full is a matter of items or of bytes. Workers sleep until there is work or the queue is closed,
//! and a closed queue is emptied first, so nothing that was accepted is lost.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A first-in, first-out queue that holds at most so many, and so many bytes.
pub(crate) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    wake: Condvar,
    items_max: usize,
    bytes_max: usize,
}

struct QueueState<T> {
    /// Each with its bytes.
    items: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(crate) fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(QueueState { items: VecDeque::with_capacity(items_max), bytes: 0, closed: false }),
            wake: Condvar::new(),
            items_max,
            bytes_max,
        }
    }

    /// Takes an item, or gives it back when the queue is full or closed. One item alone may be of any size: its sender was
    /// allowed to.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.state.lock();
        let bytes_after = state.bytes.saturating_add(bytes);
        let is_full = state.items.len() >= self.items_max || (!state.items.is_empty() && bytes_after > self.bytes_max);
        if state.closed || is_full {
            return Err(item);
        }
        state.items.push_back((item, bytes));
        state.bytes = bytes_after;
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes out the items that are stale.
    pub(crate) fn remove_stale(&self, is_stale: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let (stale, fresh): (VecDeque<_>, _) =
            std::mem::take(&mut state.items).into_iter().partition(|(item, _)| is_stale(item));
        state.bytes = fresh.iter().map(|(_, bytes)| bytes).sum();
        state.items = fresh;
        stale.into_iter().map(|(item, _)| item).collect()
    }

    /// Waits for an item; none once the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some((item, bytes)) = state.items.pop_front() {
                state.bytes -= bytes;
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
    fn a_full_queue_refuses_and_items_leave_in_order() {
        let queue = Queue::new(2, 100);
        assert_eq!((queue.push(1, 1), queue.push(2, 1), queue.push(3, 1)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
    }

    #[test]
    fn bytes_are_bounded_but_for_a_first_item() {
        let queue = Queue::new(9, 100);
        assert_eq!((queue.push(1, 101), queue.push(2, 1)), (Ok(()), Err(2)));
        assert_eq!(queue.pop(), Some(1));
        assert_eq!((queue.push(2, 60), queue.push(3, 41), queue.push(4, 40)), (Ok(()), Err(3), Ok(())));
    }

    #[test]
    fn removed_stale_items_make_room() {
        let queue = Queue::new(3, 100);
        assert_eq!((queue.push(1, 50), queue.push(2, 40), queue.push(3, 10)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(queue.remove_stale(|item| item % 2 == 1), [1, 3]);
        assert_eq!((queue.push(4, 61), queue.push(5, 60)), (Err(4), Ok(())));
        assert_eq!((queue.pop(), queue.pop()), (Some(2), Some(5)));
    }

    #[test]
    fn closing_loses_no_item_and_wakes_every_worker() {
        let queue = Arc::new(Queue::new(100, 100));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || std::iter::from_fn(|| queue.pop()).count())
            })
            .collect();
        for item in 0..100 {
            queue.push(item, 1).unwrap();
        }
        queue.close();
        assert_eq!(queue.push(100, 1), Err(100));
        assert_eq!(workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>(), 100);
    }
}
