#![doc = include_str!("../README.md")]

pub mod complaints;
pub mod containers;
pub mod counters;
pub mod docker;
pub mod front;
pub mod inference;
pub mod listed_sockets;
pub mod load;
pub mod needles;
pub mod platform;
pub mod poll;
pub mod processes;
pub mod request;
pub mod sockets;
pub mod steady;
pub mod strangers;
