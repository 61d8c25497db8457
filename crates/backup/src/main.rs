//! `rampart-backup`: the backup worker; `rampart-backup verify` verifies a set without one.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == backup::verify_command::SUBCOMMAND) {
        return backup::verify_command::run(arguments);
    }
    service::run(backup::NAME, backup::config::DEFAULTS, backup::start)
}
