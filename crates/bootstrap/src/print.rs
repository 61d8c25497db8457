//! Lines on standard output and standard error.

use std::{
    io::{self, Write as _},
    sync::OnceLock,
};

/// Why a line did not arrive on standard output; a process has one, and says so at its end.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Prints a line. That it could not be written is known at the end of the program: see [`output_failure`].
pub fn say(line: &str) {
    if let Err(error) = show(line)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _is_first = FAILURE.set(error);
    }
}

/// Prints a line, for a caller who must know now whether it has arrived: it may be a secret, or the reader may have gone.
///
/// # Errors
/// Standard output cannot be written, or is a pipe that was closed.
pub fn show(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}

/// Why something that was said did not arrive. A closed pipe is no failure: its reader has seen enough.
pub fn output_failure() -> Option<&'static io::Error> {
    FAILURE.get()
}

/// Prints a line on standard error, where nothing is left to be done about a failure.
pub fn say_error(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
