//! `rampart-serving`: one replica of the inference service, and the child that loads its models first.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // Before anything is set up: the child must be as small as can be.
    if arguments.next().as_deref() == Some(serving::PROBE_SUBCOMMAND) {
        return serving::run_probe(arguments.next().as_deref());
    }
    service::run(serving::NAME, serving::DEFAULTS, serving::start)
}
