//! The life of one connection: handshake, requests, retirement.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use identity::{Generation, Identity, PeerList, PeerName, certificate_not_after};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    Limits,
    handler::{Handler, Peer},
    metrics::{self, Retirement},
    preface_timeout::preface_timeout,
};

const H2: &[u8] = b"h2";
/// How long, and for how many bytes, a refused peer is read from, so that it can read the alert.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
const CLOSE_BYTES_MAX: u64 = 64 * 1024;

/// What all connections of a listener share.
pub(crate) struct Listener {
    pub(crate) name: &'static str,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) peers: Arc<PeerList>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) router: Router,
    pub(crate) http1: http1::Builder,
    pub(crate) http2: http2::Builder<TokioExecutor>,
    pub(crate) stop: CancellationToken,
}

/// A peer that completed the handshake.
struct AcceptedPeer {
    stream: TlsStream<TcpStream>,
    name: PeerName,
    not_after: OffsetDateTime,
    /// As it was before the handshake, so that no change during it is missed.
    trust: watch::Receiver<Generation>,
}

/// HTTP/1.1 with its limits.
pub(crate) fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX));
    builder
}

/// HTTP/2 with its limits.
pub(crate) fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// Why a connection ended before its peer or the server closed it.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("requests in flight took too long to end")]
    Drain,
}

// === impl Listener ===

impl Listener {
    /// Serves one TCP connection to its end. `ordinal` counts connections, to spread their retirements.
    pub(crate) async fn serve(self: Arc<Self>, tcp: TcpStream, ordinal: u64) {
        let Some(accepted) = self.accept_tls(tcp).await else { return };
        let _open = metrics::Open::on(self.name);
        let peer = accepted.name.clone();
        if let Err(error) = self.serve_requests(accepted, ordinal).await {
            tracing::debug!(%peer, %error, listener = self.name, "connection ended early");
        }
    }

    async fn accept_tls(&self, tcp: TcpStream) -> Option<AcceptedPeer> {
        // Without it small answers wait for the peer's delayed acknowledgement. Only a dead socket fails here.
        tcp.set_nodelay(true).ok()?;
        let mut trust = self.identity.changes();
        trust.mark_unchanged();
        let accept = self.tls.accept(tcp).into_fallible();
        let stream = match timeout(self.limits.handshake_timeout, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, tcp))) => {
                metrics::count_handshake(self.name, metrics::Handshake::Refused);
                tracing::debug!(%error, listener = self.name, "handshake refused");
                close_after_alert(tcp).await;
                return None;
            }
            Err(_) => {
                metrics::count_handshake(self.name, metrics::Handshake::TimedOut);
                return None;
            }
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first)?;
        let (name, not_after) = (PeerName::from_certificate(leaf).ok()?, certificate_not_after(leaf).ok()?);
        metrics::count_handshake(self.name, metrics::Handshake::Completed);
        Some(AcceptedPeer { stream, name, not_after, trust })
    }

    async fn serve_requests(&self, accepted: AcceptedPeer, ordinal: u64) -> Result<(), ConnectionError> {
        let AcceptedPeer { stream, name, not_after, trust } = accepted;
        let retirement = self.retirement(self.age_max(not_after, ordinal), trust);
        let peer = Peer {
            name,
            peers: self.peers.clone(),
            limits: self.limits.clone(),
            listener: self.name,
            reported: AtomicBool::new(false),
        };
        let handler = Handler { router: self.router.clone(), connection: Arc::new(peer) };
        if stream.get_ref().1.alpn_protocol() == Some(H2) {
            let stream = preface_timeout(self.limits.header_timeout, stream);
            self.run_until_retired(self.http2.serve_connection(TokioIo::new(stream), handler), retirement).await
        } else {
            self.run_until_retired(self.http1.serve_connection(TokioIo::new(stream), handler), retirement).await
        }
    }

    async fn run_until_retired(
        &self,
        connection: impl GracefulConnection<Error = hyper::Error>,
        retirement: impl Future<Output = Retirement>,
    ) -> Result<(), ConnectionError> {
        let mut connection = pin!(connection);
        let reason = tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            reason = retirement => reason,
        };
        metrics::count_retirement(self.name, reason);
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            result = connection => Ok(result?),
            // At a stop the server itself counts the time, for all connections together, and says what it cut.
            () = tokio::time::sleep(self.limits.drain_timeout), if reason != Retirement::Stop => Err(ConnectionError::Drain),
        }
    }

    async fn retirement(&self, age_max: Duration, mut trust: watch::Receiver<Generation>) -> Retirement {
        let trusted = trust.borrow().trust;
        tokio::select! {
            () = self.stop.cancelled() => Retirement::Stop,
            () = tokio::time::sleep_until(Instant::now() + age_max) => Retirement::Age,
            Ok(_) = trust.wait_for(|now| now.trust != trusted) => Retirement::Trust,
        }
    }

    /// Until the greatest age, less up to a tenth so that connections opened together do not all end together; but never
    /// beyond the end of either certificate.
    fn age_max(&self, peer_not_after: OffsetDateTime, ordinal: u64) -> Duration {
        let spread = self.limits.connection_age_max.mul_f64(0.1 * fraction(ordinal));
        time_left(peer_not_after.min(self.identity.not_after())).min(self.limits.connection_age_max - spread)
    }
}

/// How long a certificate still holds, the second that it names included. By the clock of the system and no other: rustls
/// judges certificates by that one, and two clocks would disagree about an end.
pub(crate) fn time_left(not_after: OffsetDateTime) -> Duration {
    Duration::try_from(not_after + time::Duration::SECOND - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
}

/// Sends what is left to send (the alert), then waits for the peer to close. Closing with unread bytes would make the
/// kernel reset the connection, and a reset can overtake the alert.
async fn close_after_alert(mut tcp: TcpStream) {
    let close = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(CLOSE_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = timeout(CLOSE_TIMEOUT, close).await;
}

/// Evenly spread over 0 to 1 for successive numbers (the golden ratio's multiples).
fn fraction(ordinal: u64) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let top = u32::try_from(ordinal.wrapping_mul(GOLDEN) >> 32).unwrap_or(u32::MAX);
    f64::from(top) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successive_connections_retire_far_apart() {
        let mut fractions: Vec<f64> = (0..100).map(fraction).collect();
        fractions.sort_by(f64::total_cmp);
        assert!(fractions.windows(2).all(|pair| pair[1] - pair[0] > 0.003 && pair[1] - pair[0] < 0.03));
    }
}
