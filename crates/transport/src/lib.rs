#![doc = include_str!("../README.md")]

mod body;
mod channel;
mod connection;
mod connector;
mod deadline;
mod ending;
mod error;
mod handler;
mod limits;
mod metrics;
mod opening;
mod server;

pub use channel::{Channel, UpstreamConfig, channel};
pub use error::TransportError;
pub use limits::Limits;
pub use server::{ListenConfig, Server};
