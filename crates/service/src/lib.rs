#![doc = include_str!("../README.md")]

mod admin;
mod config;
mod default_peers;
mod health;
mod lifecycle;
pub mod passport_keys;
mod readiness;
mod run;
mod signals;

pub use admin::declared_routes;
pub use config::{CommonConfig, ConfigError, Configuration, Fault, RuntimeConfig, ServiceConfig, load};
pub use health::{route_table, router};
pub use lifecycle::Lifecycle;
pub use readiness::{Latch, Readiness};
pub use run::run;

/// Any error, on its way to the log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
