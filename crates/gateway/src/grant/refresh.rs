//! Exchanging a refresh token.

use secrets::Secret;

use super::{GrantError, Issued, new_refresh_token};
use crate::{
    app::App,
    audit::{self, Actor, Denial, Event, Source},
    opaque,
    store::Refresh,
};

// === impl App ===

impl App {
    pub(super) async fn refresh(&self, presented: &Secret, source: &Source) -> Result<Issued, GrantError> {
        let refused = GrantError::refused("invalid_grant");
        let Ok(presented) = presented.expose_str() else { return Err(refused) };
        let (token, next) = new_refresh_token()?;
        let success = Event::new(audit::Kind::Refresh, audit::Outcome::Success, Actor::Anonymous, source.clone());
        match self.store.refresh(&opaque::sha256(presented), &next, success).await? {
            Refresh::Exchanged(signed_in) => self.issue(&signed_in, Some(token)),
            Refresh::Refused { reason, user_id } => {
                self.denials.note(Denial {
                    kind: audit::Kind::Refresh,
                    outcome: audit::Outcome::Failure,
                    actor: Actor::Anonymous,
                    resource: user_id.map(|id| format!("user:{id}")),
                    reason: Some(reason),
                    source: source.clone(),
                });
                Err(refused)
            }
            Refresh::Reused { user_id, session_id } => {
                // Either the thief or the owner came second; nobody can tell, so the login ends for both.
                let event = Event::new(audit::Kind::Refresh, audit::Outcome::Failure, Actor::Anonymous, source.clone());
                let event =
                    event.about_user(user_id).because("refresh_token_reused").with("session", session_id.to_string());
                let ended = self.store.end_session(session_id, event).await?;
                self.memory.catch_up(ended.seq).await;
                tracing::warn!(user_id = %user_id, session_id = %session_id, "a refresh token came twice; its login was ended");
                Err(refused)
            }
        }
    }
}
