#![doc = include_str!("../README.md")]

pub mod digest;
pub mod keys;
pub mod manifest;
pub mod models;
pub mod sealed;
pub mod set;
