//! What the embedded policies decide, against tables written by hand.

mod matrix;
mod table;
