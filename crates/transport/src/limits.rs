//! What a peer may send and hold.

use std::time::Duration;

/// Bounds on everything a peer can make a server do. The default suits a service with small messages.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, those in the handshake included; one more is closed unanswered.
    pub connections_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// Request line and header fields together; more is answered 431.
    pub header_bytes_max: u32,
    /// A request's body; more is answered 413. For gRPC also set the decoding limit of the tonic service.
    pub body_bytes_max: usize,
    /// TCP accepted to TLS finished.
    pub handshake_timeout: Duration,
    /// First byte to last byte of a header. For HTTP/1.1 also the longest pause between two requests.
    pub header_timeout: Duration,
    /// The longest pause within a body.
    pub body_idle_timeout: Duration,
    /// The age at which a connection is asked to end, so that renewed certificates come into use.
    pub connection_age_max: Duration,
    /// How long a connection that was asked to end may take for what is in flight; then it is cut.
    pub drain_timeout: Duration,
    /// How often a silent HTTP/2 peer is pinged.
    pub ping_interval: Duration,
    /// How long it may take to reply.
    pub ping_timeout: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            streams_max: 256,
            header_bytes_max: 32 * 1024,
            body_bytes_max: 4 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(3),
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(30),
            connection_age_max: Duration::from_secs(3600),
            // Less than the 10 s that a service's stop grants its tasks, which would be dropped and reported as hanging.
            drain_timeout: Duration::from_secs(8),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
        }
    }
}
