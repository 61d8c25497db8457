#![doc = include_str!("../README.md")]

pub mod ca;
mod poll;
mod postgres;

pub use poll::poll_until;
pub use postgres::{Lock, Postgres};
