#![doc = include_str!("../README.md")]

mod agent;
mod certificate;
mod client;
mod config;

pub use agent::Agent;
pub use client::{Vault, VaultError};
pub use config::{Login, VaultConfig};
