//! The tracker as a process, on a real PostgreSQL, over real mTLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod away;
mod openapi;
mod report;
mod summary;
mod support;
