#![doc = include_str!("../README.md")]

mod file;
mod refused;
mod replace;
mod secret;

pub use file::{SECRET_BYTES_MAX, SecretError, SecretFile};
pub use refused::refused;
pub use replace::replace_file;
pub use secret::Secret;
