//! What every handler shares.

use std::{sync::Arc, time::Duration};

use service::Readiness;
use tokio_util::sync::CancellationToken;

use crate::repository::Repository;

/// The state of the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// Behind [`App`].
pub(crate) struct Shared {
    pub(crate) repository: Repository,
    pub(crate) limits: RequestLimits,
    /// Of the process: open latches, and not about to stop.
    readiness: Readiness,
    /// Ends streams that would otherwise never end.
    pub(crate) soft_stop: CancellationToken,
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    pub(crate) body_bytes_max: usize,
    /// The deadline of a call that names none, and the latest that one can name.
    pub(crate) timeout_max: Duration,
}

// === impl App ===

impl App {
    pub(crate) fn new(
        repository: Repository,
        limits: RequestLimits,
        readiness: Readiness,
        soft_stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared { repository, limits, readiness, soft_stop }))
    }

    /// Whether this replica should get calls.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.readiness.is_ready() && self.0.repository.snapshot().is_ready()
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
