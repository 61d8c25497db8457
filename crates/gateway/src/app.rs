//! The parts of one gateway, passed to every handler, and what ends a change.

use std::{collections::BTreeSet, sync::Arc};

use authz::{Principal, UnixTime};
use governor::DefaultKeyedRateLimiter;
use problem::{Kind, Problem};
use proto::models::v1::DesiredModels;
use secrets::SecretFile;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    audit::{self, Actor, AuditEvent, Denials, RequestSource},
    auth_state::AuthState,
    clock::{WallClock, unix_seconds},
    desired_state::{self, ModelChange, ModelName, SERVING_MAX},
    error::StoreError,
    password::Hasher,
    store::{Caller, Committed, Store},
    throttle::Throttle,
    token::Tokens,
};

/// One gateway.
#[derive(Debug)]
pub struct App {
    /// Users, logins, changes, audit.
    pub store: Store,
    /// Users and revocations, in memory.
    pub auth_state: Arc<AuthState>,
    /// The signing keys.
    pub tokens: Tokens,
    /// Passwords.
    pub hasher: Hasher,
    /// Failed attempts.
    pub throttle: Throttle,
    /// How often the machines sign in.
    pub machine_rate: DefaultKeyedRateLimiter<Uuid>,
    /// What was refused and is not in the audit log yet.
    pub denials: Denials,
    /// Database connections for proofs of identity. They need no token, so they get half of the pool at most.
    pub auth_db_permits: Semaphore,
    /// The one connection for the question whether a login comes from a known network.
    pub network_permit: Semaphore,
    /// The time.
    pub clock: WallClock,
    /// Services that a passport can be for.
    pub audiences: BTreeSet<String>,
    /// The one-time token of the first administrator.
    pub bootstrap_token: Option<SecretFile>,
    /// Ends streams when the process stops.
    pub stop: CancellationToken,
}

/// A user who asks for something, by its passport.
#[derive(Clone, Copy, Debug)]
pub struct SignedInUser {
    /// The user, with the roles of the passport.
    pub caller: Caller,
    /// The login.
    pub session: Option<Uuid>,
}

// === impl App ===

impl App {
    /// The time as tokens count it.
    pub fn unix_now(&self) -> UnixTime {
        unix_seconds(self.clock.now())
    }

    /// Before the first migration there are no tables to ask.
    pub fn require_loaded(&self) -> Result<(), StoreError> {
        if self.auth_state.age().is_some() { Ok(()) } else { Err(StoreError::NotLoaded) }
    }

    /// Changes need an auth state that is fresh: on a stale one a revoked administrator could still make them.
    pub fn require_fresh(&self) -> Result<(), Problem> {
        if self.auth_state.is_fresh() {
            return Ok(());
        }
        Err(Problem::unavailable("users and revocations are not up to date here; nothing is changed until they are"))
    }

    /// Ends a change: waits until the auth state has a committed one, records a refused one if the caller caused it.
    pub async fn finish_change<T>(
        &self,
        kind: audit::EventKind,
        user: &SignedInUser,
        about: Option<Uuid>,
        source: RequestSource,
        change: Result<Committed<T>, StoreError>,
    ) -> Result<T, Problem> {
        let error = match change {
            Ok(committed) => {
                self.auth_state.catch_up(committed.seq).await;
                return Ok(committed.value);
            }
            Err(error) => error,
        };
        if let Some(reason) = error.reason() {
            let event = AuditEvent::new(kind, audit::EventOutcome::Failure, user.actor(), source).with_reason(reason);
            let event = about.into_iter().fold(event, AuditEvent::about_user);
            self.store.record(&[event]).await?;
        }
        Err(error.into())
    }

    /// Which models should serve, after those that a replica serves were added.
    pub async fn sync_models(&self, serving: &[String]) -> Result<DesiredModels, Problem> {
        if serving.len() > SERVING_MAX {
            let detail = format!("at most {SERVING_MAX} models at once");
            return Err(Problem::new(Kind::InvalidArgument, detail).field("serving"));
        }
        let serving = serving.iter().map(|name| ModelName::parse(name)).collect::<Result<Vec<_>, _>>()?;
        self.require_loaded()?;
        let models = if serving.is_empty() {
            self.store.desired_models().await?
        } else {
            self.store.add_models(&serving).await?
        };
        Ok(desired_state::message(models))
    }

    /// The same, after a change that is committed with its audit record.
    pub async fn change_model(&self, change: &ModelChange, source: RequestSource) -> Result<DesiredModels, Problem> {
        self.require_loaded()?;
        let kind = if change.loaded { audit::EventKind::LoadModel } else { audit::EventKind::UnloadModel };
        let actor = Actor::User { id: change.user, session: change.session };
        let event = |outcome| AuditEvent::new(kind, outcome, actor.clone(), source.clone()).about_model(&change.model);
        match self.store.change_model(change, event(audit::EventOutcome::Success)).await {
            Ok(models) => Ok(desired_state::message(models)),
            Err(error) => {
                if let Some(reason) = error.reason() {
                    self.store.record(&[event(audit::EventOutcome::Failure).with_reason(reason)]).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Records that something is read. Without the record there is no response.
    pub async fn record_read(
        &self,
        kind: audit::EventKind,
        user: &SignedInUser,
        source: RequestSource,
    ) -> Result<(), Problem> {
        let event = AuditEvent::new(kind, audit::EventOutcome::Success, user.actor(), source);
        Ok(self.store.record(&[event]).await?)
    }
}

// === impl SignedInUser ===

impl SignedInUser {
    /// The actor of an audit record.
    pub fn actor(&self) -> Actor {
        Actor::User { id: self.caller.id, session: self.session }
    }
}

impl TryFrom<&Principal> for SignedInUser {
    type Error = Problem;

    /// The guard lets only users through to these handlers; checked all the same.
    fn try_from(principal: &Principal) -> Result<Self, Problem> {
        let claims = principal.passport().ok_or_else(Problem::missing_token)?;
        let unknown = || Problem::new(Kind::Unauthenticated, "this needs a valid bearer token");
        let id = claims.sub.parse().map_err(|_| unknown())?;
        Ok(Self { caller: Caller { id, roles: claims.roles }, session: claims.sid.parse().ok() })
    }
}
