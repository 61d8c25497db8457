#![doc = include_str!("../README.md")]

mod body;
mod channel;
mod connection;
mod connector;
mod deadline;
mod error;
mod expiring_stream;
mod guarded_stream;
mod handler;
mod limits;
mod metrics;
mod preface_timeout;
mod server;

pub use channel::{Channel, UpstreamConfig, channel};
pub use error::TransportError;
pub use limits::Limits;
pub use server::{ListenConfig, Server};
