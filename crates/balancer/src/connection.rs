//! One client's connection, as its requests see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
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
}

impl Connection {
    /// A connection that was opened now.
    pub fn new(client: SocketAddr) -> Arc<Self> {
        Arc::new(Self { client, opened: Instant::now(), abandoned: AtomicU32::new(0), arrived_us: AtomicU64::new(0) })
    }

    /// Counts that the client reset a request, or left, at once.
    pub fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of the client arrived now.
    pub fn record_arrival(&self) {
        let after_us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.arrived_us.store(after_us, Ordering::Relaxed);
    }

    /// When bytes of the client arrived last.
    pub fn arrived(&self) -> Instant {
        self.opened + Duration::from_micros(self.arrived_us.load(Ordering::Relaxed))
    }
}
