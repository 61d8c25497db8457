//! Signing in with a client secret.

use std::time::Duration;

use governor::clock::Clock;
use secrets::Secret;
use uuid::Uuid;

use super::{
    GrantError, IssuedTokens, network,
    sign_in_attempt::{FailedAttempt, failure_reason, success},
};
use crate::{
    app::App,
    audit::{Actor, Denial, EventKind, EventOutcome, RequestSource},
    random_secrets,
    store::NewSession,
    user::UserKind,
};

/// A credential that nothing matches.
const NO_CREDENTIAL: &str = "sha256:";

// === impl App ===

impl App {
    pub(super) async fn sign_in_machine(
        &self,
        client_id: &str,
        secret: &Secret,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let kind = EventKind::ClientCredentials;
        let attempt = self.admit(kind, client_id, source).await?;
        let found = self.find(client_id).await?;
        let machine = found.as_ref().filter(|found| found.user.kind == UserKind::Machine);
        let stored = machine.map_or(NO_CREDENTIAL, |machine| &machine.credential);
        let matches = secret.expose_str().is_ok_and(|secret| random_secrets::matches_credential(secret, stored));
        let Some(machine) = machine.filter(|_| matches) else {
            let reason = failure_reason(found.as_ref(), UserKind::Machine);
            let failure = FailedAttempt { kind, user: found.as_ref(), reason };
            return Err(self.fail(attempt, failure, source, "invalid_client").await?);
        };
        if let Err(until) = self.machine_rate.check_key(&machine.user.id) {
            // Of an account that could sign in this is no failure; of another it stays one.
            if !machine.user.disabled {
                attempt.succeeded();
            }
            let wait = until.wait_time_from(self.machine_rate.clock().now());
            return Err(self.too_often(kind, machine.user.id, wait, source));
        }
        let network = network(source);
        let new = NewSession {
            user_id: machine.user.id,
            credential: &machine.credential,
            replacement: None,
            client_id: machine.user.name.as_str(),
            network: network.as_deref(),
            refresh: None,
        };
        let Some(signed_in) = self.with_db_permit(self.store.begin_session(new, success(kind, source))).await? else {
            let failure = FailedAttempt { kind, user: Some(machine), reason: "disabled_or_changed" };
            return Err(self.fail(attempt, failure, source, "invalid_client").await?);
        };
        attempt.succeeded();
        self.issue(&signed_in, None)
    }

    /// A secret that is right is used more often than a machine needs tokens, which live for minutes.
    fn too_often(&self, kind: EventKind, id: Uuid, wait: Duration, source: &RequestSource) -> GrantError {
        self.denials.push(Denial {
            kind,
            outcome: EventOutcome::Denied,
            actor: Actor::User { id, session: None },
            resource: None,
            reason: Some("rate"),
            source: source.clone(),
        });
        GrantError::too_often(wait)
    }
}
