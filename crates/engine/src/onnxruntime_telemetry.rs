//! Keeps ONNX Runtime from reporting to its maker.
//!
//! The official library begins to record as soon as an environment is made: it writes a device id and a database below
//! `~/.cache/Microsoft` and uploads what it collects. Its interface can stop that only afterwards; an environment variable
//! stops it before. A process cannot safely set its own variables, so it starts itself anew with this one.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// The variable that the library reads, and the value that it obeys.
pub(crate) const DISABLE_VARIABLE: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// Whether the library will keep to itself in this process.
pub fn is_disabled() -> bool {
    std::env::var_os(DISABLE_VARIABLE.0).is_some_and(|value| value == DISABLE_VARIABLE.1)
}

/// Becomes this program again, with the same arguments. Returns only when that fails.
pub fn restart_without_telemetry() -> ExitCode {
    let failed = match std::env::current_exe() {
        Ok(program) => {
            let mut arguments = std::env::args_os();
            let mut command = Command::new(&program);
            if let Some(name) = arguments.next() {
                command.arg0(name);
            }
            command.args(arguments).env(DISABLE_VARIABLE.0, DISABLE_VARIABLE.1).exec()
        }
        Err(error) => error,
    };
    let line =
        format!("rampart-serving: cannot start itself with {}={}: {failed}\n", DISABLE_VARIABLE.0, DISABLE_VARIABLE.1);
    // With standard error closed there is nowhere to report it.
    let _closed = std::io::stderr().write_all(line.as_bytes());
    ExitCode::FAILURE
}
