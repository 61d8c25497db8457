//! `rampart-balancer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run(topology::name::BALANCER, balancer::DEFAULTS, balancer::start)
}
