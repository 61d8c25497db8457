//! The REST side: what is asked is taken apart here, and what is answered put together. No rule and no SQL.

pub mod audit;
pub mod audit_denials;
pub mod authorize;
pub mod openapi;
mod payload;
pub mod revoke;
mod source;
pub mod token;
pub mod users;

pub use payload::{BODY_BYTES_MAX, Payload};

/// An answer in the form of `/api/*`.
pub type ApiResult<T> = Result<T, problem::Api>;
