//! What the workers of all versions may take together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::fault::{LoadFault, Reason};

/// The keys of the bounds, as a refusal names them.
const VERSION_KEY: &str = "inference.memory_bytes_max";
const TOTAL_KEY: &str = "inference.memory_total_bytes_max, with all others";

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

    /// Memory for a version that is being proved: the least that it takes, so that versions which are proved at the same time are not all
    /// admitted into the same room.
    pub(crate) fn hold(&self, bytes: u64) -> Result<ReservedBytes, LoadFault> {
        let refused = |max: u64, key: &str| {
            let detail = format!("its files have {bytes} bytes, and its process may take {max} ({key})");
            Err(LoadFault::new(Reason::Limits, detail))
        };
        if bytes > self.version_bytes_max {
            return refused(self.version_bytes_max, VERSION_KEY);
        }
        let take = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.total_bytes_max);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(ReservedBytes { taken: Arc::clone(&self.taken), bytes }),
            Err(_) => refused(self.total_bytes_max, TOTAL_KEY),
        }
    }

    /// Memory for one worker, and for as many more, up to `workers_max`, as fit into half of what is left then: a version that comes later
    /// finds room, too. Each takes what one took; not even one is a fault.
    /// What was held for the version is given back in the same moment.
    pub(crate) fn reserve(
        &self,
        mut held: Option<ReservedBytes>,
        worker_bytes: u64,
        workers_max: usize,
    ) -> Result<Reservation, LoadFault> {
        let worker_bytes = worker_bytes.max(1);
        let of_version = self.version_bytes_max / worker_bytes;
        if of_version == 0 {
            return Err(refused(worker_bytes, self.version_bytes_max, VERSION_KEY));
        }
        let mut workers = 0;
        let wanted = of_version.min(workers_max.max(1) as u64);
        let held_bytes = held.as_ref().map_or(0, ReservedBytes::bytes);
        let reserve = |taken: u64| {
            let taken = taken.saturating_sub(held_bytes);
            let left = self.total_bytes_max.saturating_sub(taken).checked_sub(worker_bytes)?;
            workers = (1 + left / 2 / worker_bytes).min(wanted);
            Some(taken + workers * worker_bytes)
        };
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return Err(refused(worker_bytes, self.total_bytes_max, TOTAL_KEY));
        }
        if let Some(held) = &mut held {
            held.bytes = 0;
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
        let first = budget.reserve(None, 20, 4).unwrap();
        assert_eq!(first.workers, 3, "the bound of a version");
        let second = budget.reserve(None, 30, 2).unwrap();
        assert_eq!(second.workers, 2, "as many as are wanted");
        let third = budget.reserve(None, 20, 4).unwrap();
        assert_eq!(third.workers, 2, "one, and half of what is left");
        assert_eq!(budget.reserve(None, 40, 1).unwrap().workers, 1, "one is never halved");
        assert!(budget.reserve(None, 41, 1).unwrap_err().detail.contains("memory_total_bytes_max"));
        drop((first, second, third));
        assert_eq!(budget.reserve(None, 60, 1).unwrap().workers, 1);
        assert!(budget.reserve(None, 61, 1).unwrap_err().detail.contains("memory_bytes_max"));
    }

    /// Of two versions that are proved at once the second finds what the first has left, before either is proved and after.
    #[test]
    fn what_is_held_for_a_proof_is_not_given_twice() {
        let budget = MemoryBudget::new(100, 80);
        let held = budget.hold(60).unwrap();
        assert!(budget.hold(41).unwrap_err().detail.contains("memory_total_bytes_max"));
        assert!(budget.hold(81).unwrap_err().detail.contains("inference.memory_bytes_max"));
        assert!(budget.reserve(None, 41, 1).is_err());
        let other = budget.hold(40).unwrap();
        assert!(budget.reserve(Some(held), 61, 1).is_err(), "one byte more than was held");
        let held = budget.hold(60).unwrap();
        let proved = budget.reserve(Some(held), 60, 9).unwrap();
        assert_eq!(proved.workers, 1);
        drop((other, proved));
        assert_eq!(budget.hold(80).unwrap().bytes(), 80, "all of it came back");
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }
}
