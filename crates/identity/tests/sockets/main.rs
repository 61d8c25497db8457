//! Handshakes over real sockets: which peers are accepted, which are not, and what a reload changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod front;
mod handshake;
mod peers;
mod reload;
