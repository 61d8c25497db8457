//! What the crate promises, from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop, and say where"
)]

mod attacks;
mod guard;
mod routes;
mod support;
mod tokens;
