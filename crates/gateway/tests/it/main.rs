//! The gateway as a process: requests in over mTLS, a real PostgreSQL below, answers and records out.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod audit;
mod authorize;
mod bootstrap;
mod client;
mod desired_state;
mod input;
mod lockout;
mod openapi;
mod outage;
mod own_account;
mod passwords;
mod peers;
mod refresh;
mod restore;
mod revocation;
mod tokens;
mod users;
mod world;
