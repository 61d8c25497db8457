#![doc = include_str!("../README.md")]

mod fault;
mod golden;
mod library;
mod model_file;
pub mod onnxruntime_telemetry;
mod pool;
mod probe;
mod session;
mod signature;
pub mod tensor;

pub use fault::{LoadFault, Reason};
pub use golden::GOLDEN_BYTES_MAX;
pub use library::{Engine, EngineConfig, EngineError};
pub use model_file::read as read_model_file;
pub use pool::{Pool, PoolError, PoolLimits, Timings};
pub use probe::{PROBE_SUBCOMMAND, ProbeLimits, Prober, run_probe};
pub use session::{RunFault, Session};
pub use signature::{Signature, TensorMismatch, TensorSpec};
