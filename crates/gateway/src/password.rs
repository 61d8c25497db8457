//! Passwords of people: what may be one, and how one is checked.

mod hasher;
mod policy;

pub use hasher::{HashError, Hasher};
pub use policy::{WeakPassword, check};
