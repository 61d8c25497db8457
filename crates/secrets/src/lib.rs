#![doc = include_str!("../README.md")]

mod file;
mod rejection_signal;
mod replace;
mod secret;

pub use file::{SECRET_BYTES_MAX, SecretError, SecretFile};
pub use rejection_signal::rejection_signal;
pub use replace::{WriteError, make_folder, replace_file};
pub use secret::Secret;
