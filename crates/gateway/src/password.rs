//! Passwords of people: what may be one, and how one is checked.

mod hasher;
mod normal_form;
mod policy;

pub use hasher::{HashError, Hasher, PasswordMatch};
pub use policy::{WeakPassword, accept};
