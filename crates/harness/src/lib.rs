#![doc = include_str!("../README.md")]

mod client;
mod gateway;
mod process;

pub use client::{Answer, Client};
pub use process::{Harness, Service};
