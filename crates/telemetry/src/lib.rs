#![doc = include_str!("../README.md")]

mod config;
mod export;
mod failure_log;
mod http_layer;
mod log_line;
mod process;
mod prometheus;
mod setup;
mod trace;

pub use config::{LogFormat, TelemetryConfig};
pub use export::Collector;
pub use failure_log::FailureLog;
pub use http_layer::{HttpLayer, HttpService, ResponseFuture, http_layer};
pub use prometheus::{EndingSeries, LATENCY_BUCKETS_S, MetricsHandle};
pub use setup::{Telemetry, TelemetryError, init, install_recorder};
pub use trace::{Trace, inject};
