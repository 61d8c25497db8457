//! An attempt to prove an identity: admitted by the throttle, and recorded before a failure is answered.

use std::time::{Duration, Instant};

use problem::Chain;
use tokio::time::timeout;

use super::{GrantError, network, throttle_address};
use crate::{
    app::App,
    audit::{Actor, AuditEvent, Denial, EventKind, EventOutcome, RequestSource},
    metrics,
    store::UserWithCredential,
    throttle::{ACCOUNT_ANYWHERE, SignInAttempt},
    user::{UserKind, UserName},
};

/// How long an attempt waits for its turn to ask.
const NETWORK_PERMIT_WAIT_MAX: Duration = Duration::from_millis(100);

/// Who a failed attempt was about, and why it failed.
pub(super) struct FailedAttempt<'a> {
    pub(super) kind: EventKind,
    pub(super) user: Option<&'a UserWithCredential>,
    pub(super) reason: &'static str,
}

// === impl App ===

impl App {
    /// Admits an attempt, or queues a denial and answers how long to wait.
    pub(super) async fn admit(
        &self,
        kind: EventKind,
        name: &str,
        source: &RequestSource,
    ) -> Result<SignInAttempt<'_>, GrantError> {
        // Texts that are no names count as one account, or callers could fill the throttle with texts of any length.
        let account = name.parse::<UserName>().map_or_else(|_| String::new(), |name| name.as_str().to_lowercase());
        let address = throttle_address(source);
        // Before there are users no network is known, and guesses at the one-time token must not hold up its owner.
        let is_setup = kind == EventKind::Bootstrap;
        let mut admitted = self.throttle.admit(&account, &address, is_setup, Instant::now());
        let is_account_wide = admitted.as_ref().is_err_and(|wait| wait.reason == ACCOUNT_ANYWHERE);
        if is_account_wide && self.is_known_network(name, source).await {
            admitted = self.throttle.admit(&account, &address, true, Instant::now());
        }
        admitted.map_err(|wait| {
            metrics::lockout(wait.reason);
            self.denials.push(Denial {
                kind,
                outcome: EventOutcome::Denied,
                actor: Actor::Anonymous,
                resource: None,
                reason: Some("throttled"),
                source: source.clone(),
            });
            GrantError::throttled(wait.delay)
        })
    }

    /// One at a time, on one connection: guesses that have to wait anyway must not take the database from the others. What cannot
    /// be asked now is not known.
    async fn is_known_network(&self, name: &str, source: &RequestSource) -> bool {
        let (Ok(name), Some(network)) = (name.parse::<UserName>(), network(source)) else { return false };
        let Ok(Ok(_permit)) = timeout(NETWORK_PERMIT_WAIT_MAX, self.network_permit.acquire()).await else {
            return false;
        };
        match self.store.is_known_network(&name, &network).await {
            Ok(is_known) => is_known,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "it is not known whether a login comes from a known network");
                false
            }
        }
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<UserWithCredential>, GrantError> {
        let Ok(name) = name.parse::<UserName>() else { return Ok(None) };
        self.with_db_permit(self.store.user_by_name(&name)).await
    }

    /// Records a failed attempt before it is answered. An attempt that cannot be recorded has not failed, it was not made.
    pub(super) async fn fail(
        &self,
        attempt: SignInAttempt<'_>,
        failure: FailedAttempt<'_>,
        source: &RequestSource,
        code: &'static str,
    ) -> Result<GrantError, GrantError> {
        attempt.failed(Instant::now());
        let mut event = AuditEvent::new(failure.kind, EventOutcome::Failure, Actor::Anonymous, source.clone());
        event = event.with_reason(failure.reason);
        if let Some(known) = failure.user {
            event = event.about_user(known.user.id).in_tenant(&known.user.tenant);
        }
        self.with_db_permit(self.store.record(&[event])).await?;
        Ok(GrantError::refused(code))
    }
}

pub(super) fn success(kind: EventKind, source: &RequestSource) -> AuditEvent {
    AuditEvent::new(kind, EventOutcome::Success, Actor::Anonymous, source.clone())
}

pub(super) fn failure_reason(found: Option<&UserWithCredential>, wanted: UserKind) -> &'static str {
    match found {
        None => "unknown_user",
        Some(found) if found.user.kind != wanted => "wrong_kind_of_user",
        Some(_) => "wrong_credential",
    }
}
