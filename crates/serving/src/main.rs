//! `rampart-serving`: one replica of the inference service, and the child that loads its models first.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: an engine that speaks to its maker must never be loaded.
    if !serving::telemetry_is_off() {
        return serving::restart_with_telemetry_off();
    }
    if std::env::args().nth(1).as_deref() == Some(serving::PROBE_SUBCOMMAND) {
        return serving::run_probe();
    }
    service::run(serving::NAME, serving::DEFAULTS, serving::start)
}
