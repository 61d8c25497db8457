//! Against a real server: what holds when it refuses, freezes, restarts or changes its mind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod constraints;
mod migrations;
mod passwords;
mod primary;
mod refused_connections;
mod standby;
mod timeouts;
mod world;
