//! `rampart-sla`

fn main() {}
