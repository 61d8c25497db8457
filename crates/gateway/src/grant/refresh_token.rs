//! Exchanging a refresh token.

use secrets::Secret;

use super::{GrantError, IssuedTokens, new_refresh_token};
use crate::{
    app::App,
    audit::{self, Actor, AuditEvent, Denial, RequestSource},
    random_secrets::{self, sha256},
    store::{RefreshResult, Successors},
};

// === impl App ===

impl App {
    pub(super) async fn refresh(&self, presented: &Secret, source: &RequestSource) -> Result<IssuedTokens, GrantError> {
        let refused = GrantError::refused("invalid_grant");
        let presented =
            presented.expose_str().ok().filter(|text| random_secrets::has_form(text, random_secrets::REFRESH_PREFIX));
        let Some(presented) = presented else {
            self.queue_unowned_denial("malformed", source);
            return Err(refused);
        };
        let mut tokens = self.tokens.refresh_successors(presented);
        let derived = tokens.iter().map(|token| sha256(token)).collect();
        let (token, random) = new_refresh_token()?;
        tokens.push(token);
        let successors = Successors { derived, random };
        let event = |outcome| AuditEvent::new(audit::EventKind::Refresh, outcome, Actor::Anonymous, source.clone());
        let success = event(audit::EventOutcome::Success);
        match self.with_db_permit(self.store.refresh(&sha256(presented), &successors, success)).await? {
            RefreshResult::Exchanged { signed_in, successor } => {
                let token = tokens.into_iter().find(|token| sha256(token) == successor);
                self.issue(&signed_in, token)
            }
            RefreshResult::Refused { reason, user_id: None } => {
                self.queue_unowned_denial(reason, source);
                Err(refused)
            }
            RefreshResult::Refused { reason, user_id: Some(user_id) } => {
                let event = event(audit::EventOutcome::Failure).about_user(user_id).with_reason(reason);
                self.with_db_permit(self.store.record(&[event])).await?;
                Err(refused)
            }
            RefreshResult::Reused { user_id, session_id } => {
                // The thief or the owner came second, and which of them is not decidable: the session ends for both.
                let event = event(audit::EventOutcome::Failure).about_user(user_id).with_reason("refresh_token_reused");
                let event = event.with("session", session_id.to_string());
                // Without a permit: the token was real, and a flood of false ones must not delay this.
                let ended = self.store.revoke_session(session_id, event).await?;
                self.auth_state.catch_up(ended.seq).await;
                tracing::warn!(user_id = %user_id, session_id = %session_id, "a refresh token was presented twice, so it may be stolen; its session was revoked");
                Err(refused)
            }
        }
    }

    /// A made-up token costs its sender nothing, so it is not worth a transaction.
    fn queue_unowned_denial(&self, reason: &'static str, source: &RequestSource) {
        self.denials.push(Denial {
            kind: audit::EventKind::Refresh,
            outcome: audit::EventOutcome::Failure,
            actor: Actor::Anonymous,
            resource: None,
            reason: Some(reason),
            source: source.clone(),
        });
    }
}
