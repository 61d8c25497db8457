//! A port that no other test uses.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

/// Below the kernel's range for outgoing connections, so that a free port stays free.
const PORTS: RangeInclusive<u16> = 18_000..=19_999;

/// A port, kept from every other test of this machine until it is dropped.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// The kernel releases the lock when the process ends, by `kill -9` too.
    _lock: File,
}

// === impl Port ===

impl Port {
    /// The first port of the range that no test has taken and no process listens on.
    pub(super) fn take() -> Self {
        let locks = std::env::temp_dir().join(format!("rampart-ports-{}", rustix::process::geteuid().as_raw()));
        fs::create_dir_all(&locks).expect("the directory of locks can be made");
        let free = |port: u16| {
            let lock = File::create(locks.join(port.to_string())).ok()?;
            lock.try_lock().ok()?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpListener::bind(address).ok()?;
            Some(Self { address, _lock: lock })
        };
        PORTS.into_iter().find_map(free).expect("one of two thousand ports is free")
    }
}
