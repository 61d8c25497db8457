//! What the embedded policies decide, against tables written by hand.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop, and say where"
)]

mod matrix;
mod table;
