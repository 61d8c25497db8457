#![doc = include_str!("../README.md")]

pub mod complaints;
pub mod counters;
pub mod inference;
pub mod load;
pub mod platform;
pub mod processes;
pub mod request;
