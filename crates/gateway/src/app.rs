//! What one gateway knows how to do, passed to every handler.

use std::{collections::BTreeSet, sync::Arc};

use authz::{Principal, UnixTime};
use problem::{Kind, Problem};
use secrets::SecretFile;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    audit::{self, Actor, Denial, Denials, Source},
    clock::{WallClock, unix_seconds},
    error::StoreError,
    memory::Memory,
    password::Hasher,
    store::{Caller, Store},
    throttle::Throttle,
    token::Tokens,
};

/// One gateway.
#[derive(Debug)]
pub struct App {
    /// Users, logins, changes, audit.
    pub store: Store,
    /// What is known without the database.
    pub memory: Arc<Memory>,
    /// The signing keys.
    pub tokens: Tokens,
    /// Passwords.
    pub hasher: Hasher,
    /// Failed attempts.
    pub throttle: Throttle,
    /// Refusals on their way to the audit log.
    pub denials: Denials,
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
        if self.memory.is_fresh() {
            return Ok(());
        }
        Err(Problem::unavailable("users and revocations are not up to date here; nothing is changed until they are"))
    }

    /// Notes that a change was not made, when that is the caller's doing, and says what to answer.
    pub fn refuse(
        &self,
        kind: audit::Kind,
        user: &SignedInUser,
        about: Option<Uuid>,
        source: &Source,
        error: StoreError,
    ) -> Problem {
        if let Some(reason) = error.reason() {
            self.denials.note(Denial {
                kind,
                outcome: audit::Outcome::Failure,
                actor: user.actor(),
                resource: about.map(|id| format!("user:{id}")),
                reason: Some(reason),
                source: source.clone(),
            });
        }
        error.into()
    }

    /// Notes that something was read.
    pub fn note_read(&self, kind: audit::Kind, user: &SignedInUser, source: &Source) {
        self.denials.note(Denial {
            kind,
            outcome: audit::Outcome::Success,
            actor: user.actor(),
            resource: None,
            reason: None,
            source: source.clone(),
        });
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
