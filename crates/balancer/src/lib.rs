//! The front door.
pub mod front;
pub mod metrics;
pub mod pool;
pub mod routes;
