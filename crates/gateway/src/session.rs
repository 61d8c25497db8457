//! A session (a login) and its chain of refresh tokens (RFC 9700 §4.14): each is exchanged once, a second time is a theft, unless
//! it comes at once: then two asked at the same time, or the answer was lost.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::random_secrets::Digest;

/// How long a login lives without being used.
pub const IDLE: Duration = Duration::hours(1);

/// How long a login lives at most.
pub const ABSOLUTE: Duration = Duration::hours(24);

/// How long an access token lives.
pub const ACCESS_LIFETIME: Duration = Duration::minutes(10);

/// How long an exchanged token may be presented again.
pub const GRACE: Duration = Duration::seconds(10);

/// How often one login can be refreshed: every two minutes of its whole life, more than any client needs.
pub const ROTATIONS_MAX: i32 = 1_000;

/// How many logins of one user live at once; one more ends the oldest.
pub const SESSIONS_PER_USER_MAX: i64 = 64;

/// A login.
#[derive(Clone, Debug)]
pub struct Session {
    /// The `sid` of its tokens.
    pub id: Uuid,
    /// Who signed in.
    pub user_id: Uuid,
    /// The client that asked for the tokens.
    pub client_id: String,
    /// When: the tokens' `auth_time`.
    pub started_at: OffsetDateTime,
    /// When it ends in any case.
    pub expires_at: OffsetDateTime,
    /// When it ends unless it is refreshed.
    pub idle_expires_at: OffsetDateTime,
    /// How often it was refreshed.
    pub rotations: i32,
    /// When it was ended, if it was.
    pub revoked_at: Option<OffsetDateTime>,
}

/// A refresh token as the store knows it.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    /// When it was exchanged, if it was.
    pub rotated_at: Option<OffsetDateTime>,
    /// The token that it was exchanged for.
    pub successor: Option<Digest>,
    /// Whether the token it was exchanged for has been used or replaced itself.
    pub successor_used: bool,
}

/// What to do with a refresh token that was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshVerdict {
    /// Exchange it.
    Exchange,
    /// Another request has just exchanged it, or the response was lost: answer with the same successor.
    Repeat,
    /// It was stolen, or its owner's was: revoke the session.
    Reused,
    /// The session is over, or used up.
    SessionOver,
}

// === impl Session ===

impl Session {
    /// A login that begins now.
    pub fn begin(user_id: Uuid, client_id: &str, now: OffsetDateTime) -> Self {
        Self {
            id: Uuid::new_v4(),
            user_id,
            client_id: client_id.to_owned(),
            started_at: now,
            expires_at: now + ABSOLUTE,
            idle_expires_at: now + IDLE,
            rotations: 0,
            revoked_at: None,
        }
    }

    /// When the login ends if it is refreshed now and then never again.
    pub fn idle_expiry_from(&self, now: OffsetDateTime) -> OffsetDateTime {
        (now + IDLE).min(self.expires_at)
    }

    /// Judges a refresh token of this login.
    pub fn judge_refresh(&self, token: &RefreshToken, now: OffsetDateTime) -> RefreshVerdict {
        if self.revoked_at.is_some() || now >= self.expires_at || now >= self.idle_expires_at {
            return RefreshVerdict::SessionOver;
        }
        let verdict = match token.rotated_at {
            None => RefreshVerdict::Exchange,
            Some(rotated_at) if now < rotated_at + GRACE && !token.successor_used => RefreshVerdict::Repeat,
            Some(_) => RefreshVerdict::Reused,
        };
        let is_used_up = self.rotations >= ROTATIONS_MAX && verdict != RefreshVerdict::Reused;
        if is_used_up { RefreshVerdict::SessionOver } else { verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn session() -> Session {
        Session::begin(Uuid::nil(), "test", START)
    }

    fn exchanged(at: OffsetDateTime, successor_used: bool) -> RefreshToken {
        RefreshToken { rotated_at: Some(at), successor: Some([1; 32]), successor_used }
    }

    #[test]
    fn a_token_is_exchanged_once_and_its_answer_repeated_at_once_alone() {
        let unused = RefreshToken { rotated_at: None, successor: None, successor_used: false };
        assert_eq!(session().judge_refresh(&unused, START), RefreshVerdict::Exchange);
        assert_eq!(
            session().judge_refresh(&exchanged(START, false), START + GRACE - Duration::SECOND),
            RefreshVerdict::Repeat
        );
        assert_eq!(session().judge_refresh(&exchanged(START, false), START + GRACE), RefreshVerdict::Reused);
        assert_eq!(
            session().judge_refresh(&exchanged(START, true), START),
            RefreshVerdict::Reused,
            "the answer did arrive"
        );
    }

    #[test]
    fn a_login_ends_when_idle_when_old_and_when_ended() {
        let unused = RefreshToken { rotated_at: None, successor: None, successor_used: false };
        assert_eq!(session().judge_refresh(&unused, START + IDLE - Duration::SECOND), RefreshVerdict::Exchange);
        assert_eq!(session().judge_refresh(&unused, START + IDLE), RefreshVerdict::SessionOver);
        let busy = Session { idle_expires_at: START + ABSOLUTE + IDLE, ..session() };
        assert_eq!(busy.judge_refresh(&unused, START + ABSOLUTE), RefreshVerdict::SessionOver);
        assert_eq!(busy.idle_expiry_from(START + ABSOLUTE - Duration::SECOND), START + ABSOLUTE);
        assert_eq!(
            Session { revoked_at: Some(START), ..session() }.judge_refresh(&unused, START),
            RefreshVerdict::SessionOver
        );
        let used_up = Session { rotations: ROTATIONS_MAX, ..session() };
        assert_eq!(used_up.judge_refresh(&unused, START), RefreshVerdict::SessionOver);
        assert_eq!(used_up.judge_refresh(&exchanged(START, false), START), RefreshVerdict::SessionOver);
        assert_eq!(
            used_up.judge_refresh(&exchanged(START, true), START),
            RefreshVerdict::Reused,
            "a theft is noticed all the same"
        );
        assert_eq!(
            Session { rotations: ROTATIONS_MAX - 1, ..session() }.judge_refresh(&unused, START),
            RefreshVerdict::Exchange
        );
    }
}
