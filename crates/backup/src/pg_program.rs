//! `pg_dump` and `pg_restore` as child processes: bounded stderr, killed when dropped.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

/// What is kept of a program's stderr: its first lines name the cause.
const STDERR_BYTES_MAX: usize = 4096;

/// A program that failed, and what it wrote to stderr.
#[derive(Debug, thiserror::Error)]
#[error("{program} failed: {stderr}")]
pub struct ProgramError {
    program: &'static str,
    stderr: String,
}

/// A command with an empty environment: no secret leaks into it, no variable changes what it does.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts it.
pub(crate) fn spawn(program: &'static str, command: &mut Command) -> Result<Child, ProgramError> {
    command.spawn().map_err(|error| ProgramError { program, stderr: error.to_string() })
}

/// The program's stderr, read to its end so that the program never blocks on it.
pub(crate) async fn read_stderr(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let room = STDERR_BYTES_MAX - kept.len();
        kept.extend(buffer.iter().take(read.min(room)));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Waits for its end; anything but success is an error with its own words.
pub(crate) async fn wait(program: &'static str, mut child: Child, stderr: String) -> Result<(), ProgramError> {
    match child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if stderr.is_empty() => Err(ProgramError { program, stderr: status.to_string() }),
        Ok(_) => Err(ProgramError { program, stderr }),
        Err(error) => Err(ProgramError { program, stderr: error.to_string() }),
    }
}

// === impl ProgramError ===

impl ProgramError {
    /// Whether it ran out of disk space, which says nothing about its input.
    pub(crate) fn is_out_of_room(&self) -> bool {
        ["No space left on device", "Disk quota exceeded", "File too large"]
            .iter()
            .any(|words| self.stderr.contains(words))
    }
}
