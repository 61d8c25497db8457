//! Sets built and verified, on a real PostgreSQL, with real keys; and the worker as a process, over real mTLS.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod cancel;
mod damage;
mod interruption;
mod openapi;
mod restart;
mod schedule;
mod support;
mod verify_command;
mod worker;
