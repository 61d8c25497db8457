//! Why a server cannot serve.

use std::{io, net::SocketAddr};

/// Why a listener could not be opened, or had to close.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address is in use, or not this machine's.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses one connection after the other, for seconds.
    #[error("cannot accept connections on {address} any more")]
    Accept {
        /// The listener's address.
        address: SocketAddr,
        /// The last refusal.
        source: io::Error,
    },
}
