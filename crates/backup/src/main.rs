//! `rampart-backup`: the backup worker; `rampart-backup verify` proves a set without one.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == backup::offline::SUBCOMMAND) {
        return backup::offline::run(arguments);
    }
    service::run(backup::NAME, backup::config::DEFAULTS, backup::start)
}
