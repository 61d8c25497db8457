#![doc = include_str!("../README.md")]

mod fault;
mod golden;
mod inspection;
mod library;
mod memory;
mod model_file;
pub mod onnxruntime_telemetry;
mod pool;
mod quarantine;
mod session;
mod signature;
pub mod tensor;
mod worker;

pub use fault::{LoadFault, Reason};
pub use golden::GOLDEN_BYTES_MAX;
pub use inspection::{ExternalFiles, Inspection, Inspector, external_files};
pub use library::{Engine, EngineConfig, EngineError};
pub use memory::{MemoryBudget, Reservation};
pub use model_file::{FileDigests, is_data_name, read_text, refuse_link};
pub use pool::{Group, Pool, PoolError, PoolLimits, PoolSource, Proved, Timings, WorkersEnded};
pub use quarantine::Quarantine;
pub use session::RunFault;
pub use signature::{Signature, TensorMismatch, TensorSpec};
pub use worker::{Isolation, VersionFiles, WORKER_SUBCOMMAND, WorkerLimits, WorkerStarter, run_worker};
