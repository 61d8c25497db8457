//! The loopback ports of the processes.
//!
//! A replica that was killed must come back at the address that its callers have, so ports are chosen once, by the
//! supervisor. They lie below the kernel's range for outgoing connections (32768 and up): a port that is free
//! now cannot be taken by an outgoing connection a moment later.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use anyhow::{Context as _, bail};

const FIRST: u16 = 20_000;
const LAST: u16 = 29_999;
const TRIES: u32 = 1_000;

/// Gives out free loopback ports, each once.
#[derive(Default)]
pub(super) struct Ports {
    taken: Vec<u16>,
}

// === impl Ports ===

impl Ports {
    /// A port that is free now.
    pub(super) fn next(&mut self) -> anyhow::Result<SocketAddr> {
        for _ in 0..TRIES {
            let port = random_port()?;
            if !self.taken.contains(&port) && refusal(port).is_none() {
                self.taken.push(port);
                return Ok(loopback(port));
            }
        }
        bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
    }

    /// The requested port, or any free one if that is 0.
    pub(super) fn requested(&mut self, port: u16) -> anyhow::Result<SocketAddr> {
        if port == 0 {
            return self.next();
        }
        if let Some(refusal) = refusal(port) {
            bail!("{refusal}, or choose another with --port");
        }
        self.taken.push(port);
        Ok(loopback(port))
    }
}

fn random_port() -> anyhow::Result<u16> {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system gave no random bytes")?;
    Ok(FIRST + u16::from_le_bytes(bytes) % (LAST - FIRST + 1))
}

/// Why clients would not reach this platform on the port, and what helps. Many ask for `localhost` at [::1] first.
fn refusal(port: u16) -> Option<String> {
    let in_use = |address: IpAddr| format!("port {port} on {address} is in use: stop what listens there");
    match TcpListener::bind(loopback(port)).map(drop).map_err(|error| error.kind()) {
        Ok(()) => {}
        Err(ErrorKind::PermissionDenied) => {
            return Some(format!(
                "port {port} is for root alone: run `sysctl net.ipv4.ip_unprivileged_port_start={port}` as root"
            ));
        }
        Err(_) => return Some(in_use(Ipv4Addr::LOCALHOST.into())),
    }
    // On a machine without IPv6 there is no such address.
    let other = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map(drop);
    other.is_err_and(|error| error.kind() == ErrorKind::AddrInUse).then(|| in_use(Ipv6Addr::LOCALHOST.into()))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_clients_would_not_reach_is_refused_with_its_address() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = TcpListener::bind((address, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            let refused = Ports::default().requested(port).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("port {port} on {address} is in use")), "{refused}");
            drop(listener);
            assert_eq!(Ports::default().requested(port).unwrap().port(), port);
        }
    }
}
