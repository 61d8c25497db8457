//! `rampart-serving`: one replica of the inference service, and the child that loads its models first.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

/// ONNX Runtime from PyPI reports its use to its maker, and keeps a database of it under the home directory, unless this
/// is in the environment before the library is loaded; switching it off through the API comes too late.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn main() -> ExitCode {
    if env::var_os(NO_TELEMETRY).is_none_or(|value| value != "1") {
        return again_without_telemetry();
    }
    let mut arguments = std::env::args().skip(1);
    // Before anything is set up: the child must be as small as can be.
    if arguments.next().as_deref() == Some(serving::PROBE_SUBCOMMAND) {
        return serving::run_probe(arguments.next().as_deref());
    }
    service::run(serving::NAME, serving::DEFAULTS, serving::start)
}

/// Becomes the same program with the variable set: a process cannot change its own environment safely.
fn again_without_telemetry() -> ExitCode {
    let failed = match env::current_exe() {
        Ok(program) => Command::new(program).args(env::args_os().skip(1)).env(NO_TELEMETRY, "1").exec(),
        Err(error) => error,
    };
    let message = format!("rampart-serving: cannot start itself with {NO_TELEMETRY}=1: {failed}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes());
    ExitCode::FAILURE
}
