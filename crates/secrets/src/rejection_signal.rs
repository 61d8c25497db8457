//! The signal that a secret out of a file was rejected.

use tokio::sync::Notify;

static REJECTED: Notify = Notify::const_new();

/// A client whose secret out of a file was rejected calls `notify_waiters`, and the task that renews the file looks for a newer
/// one (`notified`). One for the process: the two share nothing else but the file.
pub fn rejection_signal() -> &'static Notify {
    &REJECTED
}
