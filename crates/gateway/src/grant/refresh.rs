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
        let presented = presented.expose_str().ok().filter(|text| opaque::has_form(text, opaque::REFRESH_PREFIX));
        let Some(presented) = presented else {
            self.note_nobodys("malformed", source);
            return Err(refused);
        };
        let (token, next) = new_refresh_token()?;
        let event = |outcome| Event::new(audit::Kind::Refresh, outcome, Actor::Anonymous, source.clone());
        let success = event(audit::Outcome::Success);
        match self.in_turn(self.store.refresh(&opaque::sha256(presented), &next, success)).await? {
            Refresh::Exchanged(signed_in) => self.issue(&signed_in, Some(token)),
            Refresh::Refused { reason, user_id: None } => {
                self.note_nobodys(reason, source);
                Err(refused)
            }
            Refresh::Refused { reason, user_id: Some(user_id) } => {
                let event = event(audit::Outcome::Failure).about_user(user_id).because(reason);
                self.in_turn(self.store.record(&[event])).await?;
                Err(refused)
            }
            Refresh::Reused { user_id, session_id } => {
                // Either the thief or the owner came second; nobody can tell, so the login ends for both.
                let event = event(audit::Outcome::Failure).about_user(user_id).because("refresh_token_reused");
                let event = event.with("session", session_id.to_string());
                // Not in turn: whoever has a real token is no stranger, and strangers must not delay this.
                let ended = self.store.end_session(session_id, event).await?;
                self.memory.catch_up(ended.seq).await;
                tracing::warn!(user_id = %user_id, session_id = %session_id, "a refresh token came twice; its login was ended");
                Err(refused)
            }
        }
    }

    /// A text that is nobody's token costs nothing to make, so it is not worth a transaction.
    fn note_nobodys(&self, reason: &'static str, source: &Source) {
        self.denials.note(Denial {
            kind: audit::Kind::Refresh,
            outcome: audit::Outcome::Failure,
            actor: Actor::Anonymous,
            resource: None,
            reason: Some(reason),
            source: source.clone(),
        });
    }
}
