#![doc = include_str!("../README.md")]

mod counts;
mod latency;
mod outcome;

pub use counts::{Counts, LATENCY_TARGET_MS};
pub use latency::{ENCODED_BYTES_MAX, Latencies, LatencyError};
pub use outcome::{Outcome, PerOutcome};
