#![doc = include_str!("../README.md")]

mod file;
mod secret;

pub use file::{SECRET_BYTES_MAX, SecretError, SecretFile};
pub use secret::Secret;
