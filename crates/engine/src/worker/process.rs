//! The process of a worker: how it ended, and what is told of it.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::unix::OwnedReadHalf,
    process::Child,
    sync::{oneshot, watch},
};

/// How long the end of a process may take after its sockets were closed.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// What is logged at once of what a worker writes to standard error.
const LINE_BYTES_MAX: usize = 4096;

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By a signal.
    Signal(i32),
    /// By itself.
    Code(i32),
    /// It did not speak the protocol, and was killed.
    Broken(String),
    /// Nothing is known yet.
    Unknown,
}

/// The process of a worker that was accepted.
pub(crate) struct Process {
    pub(super) child: Child,
    pub(super) exit: watch::Sender<Option<Exit>>,
    pub(super) dropped: oneshot::Receiver<()>,
}

// === impl Process ===

impl Process {
    /// Waits for its end, or ends it when its [`Worker`](super::Worker) is dropped; none if that was wanted.
    pub(crate) async fn wait(mut self) -> Option<Exit> {
        let mut was_dropped = false;
        let status = tokio::select! {
            // A worker ends by itself when its sockets are closed, so the drop is looked at first.
            biased;
            _ = &mut self.dropped => {
                was_dropped = true;
                if let Err(error) = self.child.start_kill() {
                    tracing::debug!(%error, "the process of a model had ended when it was to be killed");
                }
                self.child.wait().await
            }
            status = self.child.wait() => status,
        };
        let exit = status.map_or(Exit::Unknown, Exit::of);
        self.exit.send_replace(Some(exit.clone()));
        (!was_dropped).then_some(exit)
    }
}

// === impl Exit ===

impl Exit {
    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Signal(signal),
            (None, Some(code)) => Self::Code(code),
            (None, None) => Self::Unknown,
        }
    }

    /// Whether it was killed from outside, as the kernel does when memory runs out.
    pub(crate) fn is_kill(&self) -> bool {
        *self == Self::Signal(libc::SIGKILL)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => match meaning(*signal) {
                Some((name, meaning)) => write!(f, "{meaning} (signal {signal}, {name})"),
                None => write!(f, "signal {signal}"),
            },
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Broken(why) => write!(f, "broken protocol: {why}"),
            Self::Unknown => f.write_str("unknown cause"),
        }
    }
}

/// The signals that native code ends by: their names, and what they say to someone who has a model and no debugger.
fn meaning(signal: i32) -> Option<(&'static str, &'static str)> {
    Some(match signal {
        libc::SIGABRT => ("SIGABRT", "native code found a fault in itself or in the model and gave up"),
        libc::SIGBUS => ("SIGBUS", "memory or a file that it used was taken away"),
        libc::SIGFPE => (
            "SIGFPE",
            "the model divided a whole number by zero, or a division had a result that its datatype cannot hold",
        ),
        libc::SIGILL => ("SIGILL", "this processor lacks an instruction that native code used"),
        libc::SIGKILL => ("SIGKILL", "it was killed from outside, as happens when memory runs out"),
        libc::SIGSEGV => {
            ("SIGSEGV", "native code reached for memory that is not its own, through a fault in it or in the model")
        }
        libc::SIGXCPU => ("SIGXCPU", "it used all of its CPU time (probe.cpu_s_max)"),
        _ => return None,
    })
}

/// Logs what a worker writes to standard error, and keeps the socket empty.
pub(super) async fn log_errors(mut stderr: OwnedReadHalf) {
    let mut line = vec![0; LINE_BYTES_MAX];
    while let Ok(length @ 1..) = stderr.read(&mut line).await {
        let text = line.get(..length).map(String::from_utf8_lossy);
        tracing::debug!(stderr = %text.unwrap_or_default().trim_end(), "the process of a model wrote to standard error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words first, the signal in brackets for those who know it.
    #[test]
    fn the_end_of_a_process_is_told_in_words() {
        for (signal, words, name) in [
            (libc::SIGFPE, "divided a whole number by zero", "(signal 8, SIGFPE)"),
            (libc::SIGSEGV, "memory that is not its own", "(signal 11, SIGSEGV)"),
            (libc::SIGABRT, "gave up", "(signal 6, SIGABRT)"),
            (libc::SIGKILL, "memory runs out", "(signal 9, SIGKILL)"),
            (libc::SIGXCPU, "probe.cpu_s_max", "SIGXCPU)"),
        ] {
            let told = Exit::Signal(signal).to_string();
            assert!(told.contains(words) && told.ends_with(name), "{told}");
        }
        assert_eq!(Exit::Signal(40).to_string(), "signal 40");
    }
}
