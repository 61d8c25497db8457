//! File descriptors: how many there may be, and which number the listener has.

use std::{io, net::TcpListener as StdListener};

use tokio::net::TcpListener;

/// Connections to replicas (two files each), listeners, the runtime.
const OTHER_DESCRIPTORS: u64 = 4096;

/// Every connection is a file, and shells start processes with a limit far below the machine's.
pub fn raise_limit(connections_max: usize) {
    let wanted = count(connections_max);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => {
            tracing::warn!(limit, wanted, "fewer files may be open than front.limits.connections_max needs");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, wanted, "limit of open files could not be raised; many clients at once may be refused")
        }
    }
}

/// Gives the listener a descriptor above those of all connections. Of a process that is killed Linux releases the highest
/// first. A client whose connection has broken reconnects within the same millisecond, and must be refused, so that its proxy
/// sends it to another balancer; connections in the accept queue of a listener that is open for a moment longer are lost.
pub(super) fn move_to_highest(listener: TcpListener, connections_max: usize) -> io::Result<TcpListener> {
    let listener = listener.into_std()?;
    let highest = i32::try_from(count(connections_max) - 1).unwrap_or(i32::MAX);
    match rustix::io::fcntl_dupfd_cloexec(&listener, highest) {
        Ok(moved) => TcpListener::from_std(StdListener::from(moved)),
        // The limit of open files is too low for that, which is a warning already.
        Err(_) => TcpListener::from_std(listener),
    }
}

fn count(connections_max: usize) -> u64 {
    u64::try_from(connections_max).unwrap_or(u64::MAX).saturating_add(OTHER_DESCRIPTORS)
}
