//! What one gateway knows how to do, passed to every handler.

use std::{collections::BTreeSet, sync::Arc};

use authz::{Principal, UnixTime};
use problem::{Kind, Problem};
use secrets::SecretFile;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    audit::{self, Actor, AuditEvent, DenialQueue, RequestSource},
    auth_state::AuthState,
    clock::{WallClock, unix_seconds},
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
    /// What is known without the database.
    pub auth_state: Arc<AuthState>,
    /// The signing keys.
    pub tokens: Tokens,
    /// Passwords.
    pub hasher: Hasher,
    /// Failed attempts.
    pub throttle: Throttle,
    /// Refusals on their way to the audit log.
    pub denials: DenialQueue,
    /// Turns at the database for those who prove who they are. Anybody can try, so they have half of the pool at most.
    pub auth_db_permits: Semaphore,
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

    /// Changes are made only by the authority of knowledge that is fresh.
    pub fn require_fresh(&self) -> Result<(), Problem> {
        if self.auth_state.is_fresh() {
            return Ok(());
        }
        Err(Problem::unavailable("users and revocations are not up to date here; nothing is changed until they are"))
    }

    /// What came of a change: known here once it is made, recorded when it was refused and that was the caller's doing.
    pub async fn settle<T>(
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

    /// Records that something is read. No record, no answer.
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

    /// The guard lets nobody else through to where this is asked; that it does is not for us to assume.
    fn try_from(principal: &Principal) -> Result<Self, Problem> {
        let unknown = || Problem::new(Kind::Unauthenticated, "this needs a valid bearer token");
        let claims = principal.passport().ok_or_else(unknown)?;
        let id = claims.sub.parse().map_err(|_| unknown())?;
        Ok(Self { caller: Caller { id, roles: claims.roles }, session: claims.sid.parse().ok() })
    }
}
