#![doc = include_str!("../README.md")]

mod config;
mod errors;
mod pool;
mod pool_manager;
mod pool_options;
mod primary;
mod shared_pool;

pub use config::{DatabaseConfig, DatabaseError};
pub use errors::map_error;
pub use pool::{Database, connect};
