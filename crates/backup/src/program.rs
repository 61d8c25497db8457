//! PostgreSQL's programs as children: bounded output, and killed when nobody waits for them any more.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

/// What is kept of a program's complaint: its first lines name the cause.
const COMPLAINT_BYTES_MAX: usize = 4096;

/// That a program did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{program} failed: {complaint}")]
pub struct ProgramError {
    program: &'static str,
    complaint: String,
}

/// A command with an empty environment: nothing of ours leaks into it, nothing of it changes what it does.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts it.
pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Child, ProgramError> {
    command.spawn().map_err(|error| ProgramError::new(name, error.to_string()))
}

/// What the program complained about, read to its end so that it never waits for us.
pub(crate) async fn complaint(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let room = COMPLAINT_BYTES_MAX - kept.len();
        kept.extend(buffer.iter().take(read.min(room)));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Waits for its end; anything but success is an error with its own words.
pub(crate) async fn wait(name: &'static str, mut child: Child, complaint: String) -> Result<(), ProgramError> {
    match child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if complaint.is_empty() => Err(ProgramError::new(name, status.to_string())),
        Ok(_) => Err(ProgramError::new(name, complaint)),
        Err(error) => Err(ProgramError::new(name, error.to_string())),
    }
}

// === impl ProgramError ===

impl ProgramError {
    /// Whether it ran out of disk: nothing about what it was given.
    pub(crate) fn is_out_of_room(&self) -> bool {
        ["No space left on device", "Disk quota exceeded", "File too large"]
            .iter()
            .any(|words| self.complaint.contains(words))
    }

    fn new(program: &'static str, complaint: String) -> Self {
        Self { program, complaint }
    }
}
