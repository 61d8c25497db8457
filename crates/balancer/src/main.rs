//! `rampart-balancer`.

fn main() {}
