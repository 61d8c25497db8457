#![doc = include_str!("../README.md")]

pub mod ca;
mod client;
mod gateway;
mod harness;
pub mod openapi;
mod poll;
mod postgres;

pub use client::{HttpResponse, PeerClient};
pub use gateway::{FakeGateway, GatewayState};
pub use harness::{Harness, RunningService, listening_addresses};
pub use poll::poll_until;
pub use postgres::{Postgres, TableLock};
