//! `rampart-gateway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run::<gateway::config::Config>(topology::name::GATEWAY, gateway::config::DEFAULT_TOML, gateway::start)
}
