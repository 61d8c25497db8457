//! Counts and durations of one model version since it was loaded, for the statistics extension.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A count and the time that went into it.
#[derive(Debug, Default)]
pub struct Durations {
    count: AtomicU64,
    ns: AtomicU64,
}

/// All that the extension asks for. Values are read one by one, so a sum may lag a count by a call.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Calls that were answered.
    pub success: Durations,
    /// Calls that were not.
    pub fail: Durations,
    /// Waiting for a worker.
    pub queue: Durations,
    /// Reading requests and making inputs of them.
    pub compute_input: Durations,
    /// In ONNX Runtime.
    pub compute_infer: Durations,
    /// Writing answers.
    pub compute_output: Durations,
    rows: AtomicU64,
    last_ms: AtomicU64,
}

// === impl Statistics ===

impl Statistics {
    /// A call of so many rows was computed.
    pub fn computed(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Rows computed, which the extension calls inferences.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// When the last call was computed, in milliseconds since 1970; 0 is never.
    pub fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }
}

// === impl Durations ===

impl Durations {
    /// Counts one and its time.
    pub fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The count and the sum of nanoseconds.
    pub fn get(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.ns.load(Ordering::Relaxed))
    }
}
