//! What the workers of all versions may take together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::fault::{LoadFault, Reason};

/// A budget of memory. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    taken: Arc<AtomicU64>,
    /// Of all versions together, in bytes.
    total_bytes_max: u64,
    /// Of one version, in bytes.
    version_bytes_max: u64,
}

/// So many workers may be started.
#[derive(Debug)]
pub struct Reservation {
    /// At least one.
    pub workers: usize,
    pub(crate) memory: ReservedBytes,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ReservedBytes {
    taken: Arc<AtomicU64>,
    bytes: u64,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    /// A budget of which nothing is taken.
    pub fn new(total_bytes_max: u64, version_bytes_max: u64) -> Self {
        Self { taken: Arc::default(), total_bytes_max, version_bytes_max }
    }

    /// Memory for one worker, and for as many more, up to `workers_max`, as fit into half of what is left then: a version that comes later
    /// finds room, too. Each takes what one took; not even one is a fault.
    pub fn reserve(&self, worker_bytes: u64, workers_max: usize) -> Result<Reservation, LoadFault> {
        let worker_bytes = worker_bytes.max(1);
        let of_version = self.version_bytes_max / worker_bytes;
        if of_version == 0 {
            return Err(refused(worker_bytes, self.version_bytes_max, "inference.memory_bytes_max"));
        }
        let mut workers = 0;
        let wanted = of_version.min(workers_max.max(1) as u64);
        let reserve = |taken: u64| {
            let left = self.total_bytes_max.saturating_sub(taken).checked_sub(worker_bytes)?;
            workers = (1 + left / 2 / worker_bytes).min(wanted);
            Some(taken + workers * worker_bytes)
        };
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return Err(refused(
                worker_bytes,
                self.total_bytes_max,
                "inference.memory_total_bytes_max, with all others",
            ));
        }
        let memory = ReservedBytes { taken: Arc::clone(&self.taken), bytes: workers * worker_bytes };
        Ok(Reservation { workers: usize::try_from(workers).unwrap_or(usize::MAX), memory })
    }
}

// === impl ReservedBytes ===

impl ReservedBytes {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn refused(worker_bytes: u64, max: u64, key: &str) -> LoadFault {
    LoadFault::new(
        Reason::Limits,
        format!("its process took {worker_bytes} bytes of memory, and may take {max} ({key})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_workers_as_fit_and_at_least_one() {
        let budget = MemoryBudget::new(200, 60);
        let first = budget.reserve(20, 4).unwrap();
        assert_eq!(first.workers, 3, "the bound of a version");
        let second = budget.reserve(30, 2).unwrap();
        assert_eq!(second.workers, 2, "as many as are wanted");
        let third = budget.reserve(20, 4).unwrap();
        assert_eq!(third.workers, 2, "one, and half of what is left");
        assert_eq!(budget.reserve(40, 1).unwrap().workers, 1, "one is never halved");
        assert!(budget.reserve(41, 1).unwrap_err().detail.contains("memory_total_bytes_max"));
        drop((first, second, third));
        assert_eq!(budget.reserve(60, 1).unwrap().workers, 1);
        assert!(budget.reserve(61, 1).unwrap_err().detail.contains("memory_bytes_max"));
    }
}
