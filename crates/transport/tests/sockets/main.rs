//! A real server on a real socket, and its peers: listed ones, and others.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "the routes of a test need no action")]

mod calls;
mod counts;
mod limits;
mod peers;
mod retirement;
mod trust;
mod world;
