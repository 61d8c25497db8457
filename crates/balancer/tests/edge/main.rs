//! The balancer as it is run: the real binary, real sockets, real certificates. What stands behind it are real servers
//! over mutual TLS that answer what a test needs; what stands before it is whatever a test can write into a socket.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking"
)]
#![expect(clippy::disallowed_methods, reason = "the routes of a test need no action")]

mod access;
mod callers;
mod cors;
mod failover;
mod front;
mod half_close;
mod life;
mod limits;
mod openapi;
mod process;
mod proxying;
mod raw;
mod registry;
mod reports;
mod slow_clients;
mod statistics;
mod upstream;
mod world;
