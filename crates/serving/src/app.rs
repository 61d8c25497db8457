//! What every handler shares.

use std::{sync::Arc, time::Duration};

use service::{Lifecycle, ProcessHealth, Readiness};

use crate::repository::Repository;

/// The state of the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// Behind [`App`].
pub(crate) struct Shared {
    pub(crate) repository: Repository,
    pub(crate) limits: RequestLimits,
    readiness: Readiness,
    pub(crate) health: ProcessHealth,
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
    pub(crate) fn new(repository: Repository, limits: RequestLimits, lifecycle: &Lifecycle) -> Self {
        let (readiness, health) = (lifecycle.readiness(), ProcessHealth::new(lifecycle));
        Self(Arc::new(Shared { repository, limits, readiness, health }))
    }

    /// Whether this replica should get calls: every latch is open, that of the models too, and it is not about to stop.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.readiness.is_ready()
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
