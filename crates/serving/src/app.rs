//! What every handler shares.

use std::{sync::Arc, time::Duration};

use model_repository::{Repository, mlflow::Registry};
use problem::Problem;
use service::Lifecycle;
use tokio::sync::oneshot;

use crate::{
    byte_budget::ByteBudget,
    desired_state::{DesiredState, Requester},
};

/// The state of the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// Behind [`App`].
pub(crate) struct Shared {
    pub(crate) repository: Repository,
    pub(crate) registry: Option<Registry>,
    /// Which models should serve.
    pub(crate) desired_state: DesiredState,
    pub(crate) limits: RequestLimits,
    /// What calls under way may hold.
    pub(crate) bytes: ByteBudget,
    lifecycle: Lifecycle,
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    pub(crate) body_bytes_max: usize,
    /// Of outputs in their binary form.
    pub(crate) answer_bytes_max: usize,
    /// The deadline of a call that names none, and the latest that one can name.
    pub(crate) timeout_max: Duration,
}

// === impl App ===

impl App {
    pub(crate) fn new(
        repository: Repository,
        registry: Option<Registry>,
        desired_state: DesiredState,
        limits: RequestLimits,
        bytes: ByteBudget,
        lifecycle: &Lifecycle,
    ) -> Self {
        let lifecycle = lifecycle.clone();
        Self(Arc::new(Shared { repository, registry, desired_state, limits, bytes, lifecycle }))
    }

    /// Whether this replica should get calls: every latch is open, that of the models too, and it is not about to stop.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.lifecycle.readiness().is_ready()
    }

    /// Loads a model, here and, by the desired state, everywhere. Once begun it is finished, whatever becomes of the caller:
    /// a load may take minutes, a call may not.
    pub(crate) async fn load_model(&self, name: &str, requester: Requester) -> Result<(), Problem> {
        let (app, name) = (self.clone(), name.to_owned());
        let Some(registry) = &self.registry else {
            let lock = self.repository.lock_for_load(name.as_str()).await?;
            return self
                .run_to_end(async move {
                    let recorded = app.desired_state.change(&app.repository, &name, true, &requester);
                    app.repository.load(lock, recorded).await
                })
                .await;
        };
        let mirror = registry.lock_mirror().await?;
        self.run_to_end(async move {
            let recorded = app.desired_state.change(&app.repository, &name, true, &requester);
            match &app.registry {
                Some(registry) => registry.load(mirror, &app.repository, &name, recorded).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Unloads a model in the same way.
    pub(crate) async fn unload_model(&self, name: &str, requester: Requester) -> Result<(), Problem> {
        let (app, name) = (self.clone(), name.to_owned());
        self.run_to_end(async move {
            let recorded = app.desired_state.change(&app.repository, &name, false, &requester);
            app.repository.unload(&name, recorded).await
        })
        .await
    }

    async fn run_to_end(
        &self,
        change: impl Future<Output = Result<(), Problem>> + Send + 'static,
    ) -> Result<(), Problem> {
        let (outcome, finished) = oneshot::channel();
        self.0.lifecycle.spawn("load", async move {
            let _gone = outcome.send(change.await);
        });
        finished.await.unwrap_or_else(|_| Err(Problem::unavailable("this replica stops")))
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
