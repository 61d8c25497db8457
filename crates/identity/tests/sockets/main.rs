//! Handshakes over real sockets: who gets in, who does not, and what a reload changes.

mod front;
mod handshake;
mod peers;
mod reload;
