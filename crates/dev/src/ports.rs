//! The loopback ports of the processes.
//!
//! A replica that was killed must come back at the address that its callers have, so ports are chosen once, by the
//! supervisor. They lie below the kernel's range for outgoing connections (32768 and up): a port that is free
//! now cannot be taken by an outgoing connection a moment later.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

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
            if !self.taken.contains(&port) && is_free(port) {
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
        if !is_free(port) {
            bail!("port {port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port");
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

fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
