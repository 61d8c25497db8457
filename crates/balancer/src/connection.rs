//! One client's connection, as its requests see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

tokio::task_local! {
    /// The connection whose request the present task handles. pingora makes a request's context without showing the
    /// connection, so it travels beside it.
    pub static CONNECTION: Arc<Connection>;
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address; with PROXY protocol, the one that the proxy named.
    pub client: SocketAddr,
    /// When it was opened.
    pub opened: Instant,
    /// Requests that the client itself gave up as soon as it had sent them.
    pub abandoned: AtomicU32,
    /// When bytes arrived last, in microseconds after it was opened.
    arrived_us: AtomicU64,
    /// Over HTTP/1.1, where there is one request at a time: all of it was read.
    is_request_received: AtomicBool,
    /// When the client ended its side, in microseconds after it was opened; 0 before that.
    half_closed_us: AtomicU64,
}

impl Connection {
    /// A connection that was opened now.
    pub fn new(client: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            client,
            opened: Instant::now(),
            abandoned: AtomicU32::new(0),
            arrived_us: AtomicU64::new(0),
            is_request_received: AtomicBool::new(false),
            half_closed_us: AtomicU64::new(0),
        })
    }

    /// Counts that the client reset a request, or left, at once.
    pub fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of the client arrived now.
    pub fn record_arrival(&self) {
        self.arrived_us.store(self.age_us(), Ordering::Relaxed);
    }

    /// When bytes of the client arrived last.
    pub fn arrived(&self) -> Instant {
        self.opened + Duration::from_micros(self.arrived_us.load(Ordering::Relaxed))
    }

    /// Whether all of the request in flight was read.
    pub fn set_request_received(&self, is_received: bool) {
        self.is_request_received.store(is_received, Ordering::Relaxed);
    }

    /// The same. Over HTTP/2 it means nothing.
    pub fn is_request_received(&self) -> bool {
        self.is_request_received.load(Ordering::Relaxed)
    }

    /// The client ended its side of the connection now, and may still read.
    pub fn record_half_close(&self) {
        self.half_closed_us.store(self.age_us().max(1), Ordering::Relaxed);
    }

    /// When it did so. If it turns out not to read any more, it has left then.
    pub fn half_closed(&self) -> Option<Instant> {
        let after_us = self.half_closed_us.load(Ordering::Relaxed);
        (after_us > 0).then(|| self.opened + Duration::from_micros(after_us))
    }

    fn age_us(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
