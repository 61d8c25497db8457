//! `rampart-sla`: the SLA tracker.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run(sla::NAME, sla::config::DEFAULTS, sla::start)
}
