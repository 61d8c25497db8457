//! A secret that is not taken any more.

use tokio::sync::Notify;

static REJECTED: Notify = Notify::const_new();

/// Whoever is refused with a secret out of a file says so here (`notify_waiters`), and whoever keeps the files looks for a
/// newer one (`notified`). One for the process: those two know nothing of each other but the file.
pub fn rejection_signal() -> &'static Notify {
    &REJECTED
}
