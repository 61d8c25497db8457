#![doc = include_str!("../README.md")]

mod changes;
mod check;
mod desired;
mod loader;
mod manifest;
mod metrics;
pub mod mlflow;
mod model;
mod names;
mod repository;
mod snapshot;

pub use changes::LoadLock;
pub use check::{Finding, check};
pub use desired::DesiredModels;
pub use loader::Loader;
pub use metrics::{ModelMetrics, Stage, call_bytes_gauge, describe as describe_metrics};
pub use model::{Durations, Model, ModelIdentity, Statistics};
pub use names::{ModelName, Version};
pub use repository::Repository;
pub use snapshot::{IndexRow, ModelEntry, ServingState, Snapshot};
