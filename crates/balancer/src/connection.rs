//! One client's connection, as its requests see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
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
}

impl Connection {
    /// A connection that was opened now.
    pub fn new(client: SocketAddr) -> Arc<Self> {
        Arc::new(Self { client, opened: Instant::now(), abandoned: AtomicU32::new(0) })
    }

    /// Counts that the client reset a request, or left, at once.
    pub fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }
}
