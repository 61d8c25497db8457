//! A whole process, from its arguments to its exit code: the example `smallest`, on real sockets with real signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod arguments;
mod stop;
mod traces;
mod world;
