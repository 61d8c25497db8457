#![doc = include_str!("../README.md")]

pub mod access_folder;
pub mod accounts;
pub mod api_path;
pub mod client;
pub mod platform_secrets;
pub mod prediction;
mod print;
pub mod readiness;

pub use print::{output_failure, say, say_error, show};
