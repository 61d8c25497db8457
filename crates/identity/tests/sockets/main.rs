//! Handshakes over real sockets: who gets in, who does not, and what a reload changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod front;
mod handshake;
mod peers;
mod reload;
