//! `rampart-backup`

fn main() {}
