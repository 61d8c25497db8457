//! Ready when every latch is open: one latch for each thing that must be true first.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Whether this process may be given work. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    closed: BTreeMap<u64, &'static str>,
    latches_made: u64,
    degraded: BTreeMap<&'static str, &'static str>,
    is_stopping: bool,
}

/// Keeps the process not ready until it is opened or dropped. Dropped by a panic it stays closed.
#[must_use = "a latch that is dropped is open"]
#[derive(Debug)]
pub struct Latch {
    number: u64,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    /// Another thing that must be true before the process is ready.
    pub fn latch(&self, name: &'static str) -> Latch {
        let mut state = self.state.lock();
        state.latches_made += 1;
        let number = state.latches_made;
        state.closed.insert(number, name);
        Latch { number, readiness: self.clone() }
    }

    /// Whether all latches are open and the process is not on its way out.
    pub fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.closed.is_empty() && !state.is_stopping
    }

    /// What the process still waits for, or "stopping".
    pub fn waits_for(&self) -> Vec<&'static str> {
        let state = self.state.lock();
        if state.is_stopping { vec!["stopping"] } else { state.closed.values().copied().collect() }
    }

    /// Shows in `/ready` that something is not as it should be, although work can be given; `None` takes it back.
    pub fn set_degraded(&self, about: &'static str, what: Option<&'static str>) {
        let mut state = self.state.lock();
        match what {
            Some(what) => state.degraded.insert(about, what),
            None => state.degraded.remove(about),
        };
    }

    /// What is not as it should be, although work can be given.
    pub fn degraded(&self) -> BTreeMap<&'static str, &'static str> {
        self.state.lock().degraded.clone()
    }

    /// From here on the process is not ready, for good.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopping = true;
    }
}

// === impl Latch ===

impl Latch {
    /// What it stood for is true now.
    pub fn open(self) {
        drop(self);
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut state = self.readiness.state.lock();
        state.closed.remove(&self.number);
        let is_ready = state.closed.is_empty() && !state.is_stopping;
        drop(state);
        if is_ready {
            tracing::info!("ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_latch_opens_and_never_again_after_stop() {
        let readiness = Readiness::default();
        let (database, models) = (readiness.latch("database"), readiness.latch("models"));
        assert_eq!(readiness.waits_for(), ["database", "models"]);
        models.open();
        assert_eq!(readiness.waits_for(), ["database"]);
        assert!(!readiness.is_ready());
        drop(database);
        assert!(readiness.is_ready());
        readiness.stop();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.waits_for(), ["stopping"]);
    }

    #[test]
    fn two_latches_of_one_name_are_two() {
        let readiness = Readiness::default();
        let (one, other) = (readiness.latch("model"), readiness.latch("model"));
        one.open();
        assert!(!readiness.is_ready());
        other.open();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_panic_opens_nothing() {
        let readiness = Readiness::default();
        let latch = readiness.latch("work");
        let thread = std::thread::spawn(move || {
            let _held = latch;
            panic!("in the middle of the work");
        });
        assert!(thread.join().is_err());
        assert!(!readiness.is_ready());
    }
}
