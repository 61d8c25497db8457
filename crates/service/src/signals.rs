//! SIGTERM and SIGINT: the first asks to stop, the second insists.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Signals that come this close to the first belong to it: Ctrl-C reaches a child from the terminal and from its parent.
const DUPLICATE_SIGNAL_WINDOW: Duration = Duration::from_secs(1);

/// Both signals, caught from the moment this is made.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    first_at: Option<Instant>,
}

// === impl StopSignals ===

impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, first_at: None })
    }

    /// The next signal that means something new, by its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let now = Instant::now();
            let is_echo = self.first_at.is_some_and(|first| now.duration_since(first) < DUPLICATE_SIGNAL_WINDOW);
            if !is_echo {
                self.first_at = Some(now);
                return name;
            }
        }
    }
}
