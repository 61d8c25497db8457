//! Signing in with a password or a client secret.

use std::time::Instant;

use problem::{Kind, Problem};
use secrets::Secret;

use super::{DEFAULT_CLIENT, GrantError, IssuedTokens, new_refresh_token, throttle_address};
use crate::{
    app::App,
    audit::{self, Actor, AuditEvent, Denial, RequestSource},
    metrics, opaque,
    password::HashError,
    store::{NewSession, WithCredential},
    throttle::Attempt,
    user::{UserKind, UserName},
};

/// A credential that nothing matches.
const NO_CREDENTIAL: &str = "sha256:";

/// Who a failed attempt was about, and why it failed.
struct Failure<'a> {
    kind: audit::EventKind,
    user: Option<&'a WithCredential>,
    reason: &'static str,
}

// === impl App ===

impl App {
    pub(super) async fn sign_in_person(
        &self,
        username: &str,
        password: Secret,
        client_id: Option<String>,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let kind = audit::EventKind::Password;
        let client_id = client_of(client_id)?;
        let mut attempt = self.admit(kind, username, source)?;
        let found = self.find(username).await?;
        let person = found.as_ref().filter(|found| found.user.kind == UserKind::Person);
        let matches = self.verify(&mut attempt, password, person.map(|person| person.credential.clone())).await?;
        let Some(person) = person.filter(|_| matches) else {
            let reason = reason_of(found.as_ref(), UserKind::Person);
            let failure = Failure { kind, user: found.as_ref(), reason };
            return Err(self.fail(attempt, failure, source, "invalid_grant").await?);
        };
        let (refresh_token, digest) = new_refresh_token()?;
        let new = NewSession {
            user_id: person.user.id,
            credential: &person.credential,
            client_id: &client_id,
            refresh: Some(&digest),
        };
        let Some(signed_in) = self.with_db_permit(self.store.begin_session(new, success(kind, source))).await? else {
            let failure = Failure { kind, user: Some(person), reason: "disabled_or_changed" };
            return Err(self.fail(attempt, failure, source, "invalid_grant").await?);
        };
        attempt.succeeded();
        self.issue(&signed_in, Some(refresh_token))
    }

    pub(super) async fn sign_in_machine(
        &self,
        client_id: &str,
        secret: &Secret,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let kind = audit::EventKind::ClientCredentials;
        let attempt = self.admit(kind, client_id, source)?;
        let found = self.find(client_id).await?;
        let machine = found.as_ref().filter(|found| found.user.kind == UserKind::Machine);
        let stored = machine.map_or(NO_CREDENTIAL, |machine| &machine.credential);
        let matches = secret.expose_str().is_ok_and(|secret| opaque::matches_credential(secret, stored));
        let Some(machine) = machine.filter(|_| matches) else {
            let reason = reason_of(found.as_ref(), UserKind::Machine);
            let failure = Failure { kind, user: found.as_ref(), reason };
            return Err(self.fail(attempt, failure, source, "invalid_client").await?);
        };
        let new = NewSession {
            user_id: machine.user.id,
            credential: &machine.credential,
            client_id: machine.user.name.as_str(),
            refresh: None,
        };
        let Some(signed_in) = self.with_db_permit(self.store.begin_session(new, success(kind, source))).await? else {
            let failure = Failure { kind, user: Some(machine), reason: "disabled_or_changed" };
            return Err(self.fail(attempt, failure, source, "invalid_client").await?);
        };
        attempt.succeeded();
        self.issue(&signed_in, None)
    }

    /// Admits an attempt, or notes and says that it must wait.
    pub(super) fn admit(
        &self,
        kind: audit::EventKind,
        name: &str,
        source: &RequestSource,
    ) -> Result<Attempt<'_>, GrantError> {
        // Whatever is no name is counted as one account; its length is the caller's to choose otherwise.
        let account = name.parse::<UserName>().map_or_else(|_| String::new(), |name| name.as_str().to_lowercase());
        self.throttle.admit(&account, &throttle_address(source), Instant::now()).map_err(|wait| {
            metrics::lockout(wait.reason);
            self.denials.push(Denial {
                kind,
                outcome: audit::EventOutcome::Denied,
                actor: Actor::Anonymous,
                resource: None,
                reason: Some("throttled"),
                source: source.clone(),
            });
            GrantError::throttled(wait.delay)
        })
    }

    async fn verify(
        &self,
        attempt: &mut Attempt<'_>,
        password: Secret,
        stored: Option<String>,
    ) -> Result<bool, HashError> {
        attempt.hash_begins(Instant::now());
        let matches = self.hasher.verify(password, stored).await;
        attempt.hash_ended();
        matches
    }

    async fn find(&self, name: &str) -> Result<Option<WithCredential>, GrantError> {
        let Ok(name) = name.parse::<UserName>() else { return Ok(None) };
        self.with_db_permit(self.store.user_by_name(&name)).await
    }

    /// Records a failed attempt before it is answered. An attempt that cannot be recorded has not failed, it was not made.
    async fn fail(
        &self,
        attempt: Attempt<'_>,
        failure: Failure<'_>,
        source: &RequestSource,
        code: &'static str,
    ) -> Result<GrantError, GrantError> {
        attempt.failed(Instant::now());
        let mut event = AuditEvent::new(failure.kind, audit::EventOutcome::Failure, Actor::Anonymous, source.clone());
        event = event.with_reason(failure.reason);
        if let Some(known) = failure.user {
            event = event.about_user(known.user.id).in_tenant(&known.user.tenant);
        }
        self.with_db_permit(self.store.record(&[event])).await?;
        Ok(GrantError::refused(code))
    }
}

fn success(kind: audit::EventKind, source: &RequestSource) -> AuditEvent {
    AuditEvent::new(kind, audit::EventOutcome::Success, Actor::Anonymous, source.clone())
}

fn reason_of(found: Option<&WithCredential>, wanted: UserKind) -> &'static str {
    match found {
        None => "unknown_user",
        Some(found) if found.user.kind != wanted => "wrong_kind_of_user",
        Some(_) => "wrong_credential",
    }
}

fn client_of(client_id: Option<String>) -> Result<String, GrantError> {
    let Some(client_id) = client_id else { return Ok(DEFAULT_CLIENT.to_owned()) };
    match client_id.parse::<UserName>() {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => {
            let problem = Problem::new(Kind::InvalidArgument, error.to_string()).field("client_id");
            Err(GrantError::invalid_request(problem))
        }
    }
}
