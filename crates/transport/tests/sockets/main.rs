//! A real server on a real socket, with friends and strangers at the other end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "the routes of a test need no action")]

mod calls;
mod counts;
mod limits;
mod peers;
mod retirement;
mod trust;
mod world;
