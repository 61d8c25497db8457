//! `rampart-balancer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run("balancer", balancer::DEFAULTS, balancer::start)
}
