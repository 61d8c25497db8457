#![doc = include_str!("../README.md")]

mod body;
mod channel;
mod connection;
mod connector;
mod error;
mod handler;
mod limits;
mod metrics;
mod opening;
mod server;

pub use channel::{Channel, UpstreamConfig, channel};
pub use connector::ConnectError;
pub use error::TransportError;
pub use limits::Limits;
pub use server::{ListenConfig, Server};
