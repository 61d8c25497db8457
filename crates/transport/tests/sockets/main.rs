//! A real server on a real socket, with friends and strangers at the other end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod counts;
mod limits;
mod peers;
mod retirement;
mod world;
