//! How many connections there may be: in all, and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts connections and refuses those over a limit.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    total: Arc<Semaphore>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    per_address_max: usize,
}

/// One connection's share of both limits; given back when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _total: OwnedSemaphorePermit,
    address: IpAddr,
    limits: Arc<ConnectionLimits>,
}

// === impl ConnectionLimits ===

impl ConnectionLimits {
    /// Limits for one listener.
    pub(super) fn new(max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { total: Arc::new(Semaphore::new(max)), per_address: Mutex::default(), per_address_max })
    }

    /// A slot among all connections, before anything of the new one is read.
    pub(super) fn acquire_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.total).try_acquire_owned().ok()
    }

    /// A slot among those of its address, when the address is known.
    pub(super) fn admit_address(
        self: &Arc<Self>,
        total: OwnedSemaphorePermit,
        client: IpAddr,
    ) -> Option<ConnectionPermit> {
        let address = network_of(client);
        let mut per_address = self.per_address.lock();
        let count = per_address.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        Some(ConnectionPermit { _total: total, address, limits: Arc::clone(self) })
    }
}

// === impl ConnectionPermit ===

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut per_address = self.limits.per_address.lock();
        if let Some(count) = per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
    }
}

/// The holder of one IPv6 address has at least a /64 of them.
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
    fn limits_hold_and_are_given_back() {
        let limits = ConnectionLimits::new(3, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let admit = |text: &str| limits.admit_address(limits.acquire_slot()?, address(text));
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none(), "third of one address");
        let _third = admit("2001:db8::1").unwrap();
        assert!(limits.acquire_slot().is_none(), "fourth of all");
        drop(first);
        assert!(admit("192.0.2.1").is_some());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let limits = ConnectionLimits::new(10, 1);
        let admit = |text: &str| limits.admit_address(limits.acquire_slot()?, text.parse().unwrap());
        let _first = admit("2001:db8::1").unwrap();
        assert!(admit("2001:db8::2").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
    }
}
