//! How many connections there may be: in all, and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

tokio::task_local! {
    /// The connection whose request the present task handles. pingora makes a request's context without showing the
    /// connection, so it travels beside it.
    pub static CONNECTION: Arc<Connection>;
}

/// Counts connections and refuses those over a cap.
#[derive(Debug)]
pub struct Connections {
    total: Arc<Semaphore>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    per_address_max: usize,
}

/// The right of one connection to be there; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _total: OwnedSemaphorePermit,
    address: IpAddr,
    connections: Arc<Connections>,
}

/// One client's connection, as its requests see it.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end; with PROXY protocol, the end that the proxy named.
    pub client: SocketAddr,
    /// When it was opened.
    pub opened: Instant,
    /// Requests that the client itself gave up before they were answered.
    pub abandoned: AtomicU32,
}

// === impl Connections ===

impl Connections {
    /// Caps of their own for a listener.
    pub fn new(max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { total: Arc::new(Semaphore::new(max)), per_address: Mutex::default(), per_address_max })
    }

    /// A place among all connections, before anything of the new one is read.
    pub fn acquire_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.total).try_acquire_owned().ok()
    }

    /// A place among those of its address, when the address is known.
    pub fn admit_address(self: &Arc<Self>, total: OwnedSemaphorePermit, client: IpAddr) -> Option<Permit> {
        let address = network_of(client);
        let mut per_address = self.per_address.lock();
        let count = per_address.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        Some(Permit { _total: total, address, connections: Arc::clone(self) })
    }
}

// === impl Permit ===

impl Drop for Permit {
    fn drop(&mut self) {
        let mut per_address = self.connections.per_address.lock();
        if let Some(count) = per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
    }
}

// === impl Connection ===

impl Connection {
    /// A connection that was opened now.
    pub fn new(client: SocketAddr) -> Arc<Self> {
        Arc::new(Self { client, opened: Instant::now(), abandoned: AtomicU32::new(0) })
    }

    /// Notes that the client reset a request or left before its answer.
    pub fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who holds one IPv6 address holds at least a /64 of them.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_and_are_given_back() {
        let connections = Connections::new(3, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let admit = |text: &str| connections.admit_address(connections.acquire_slot()?, address(text));
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none(), "third of one address");
        let _third = admit("2001:db8::1").unwrap();
        assert!(connections.acquire_slot().is_none(), "fourth of all");
        drop(first);
        assert!(admit("192.0.2.1").is_some());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let connections = Connections::new(10, 1);
        let admit = |text: &str| connections.admit_address(connections.acquire_slot()?, text.parse().unwrap());
        let _first = admit("2001:db8::1").unwrap();
        assert!(admit("2001:db8::2").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
    }
}
