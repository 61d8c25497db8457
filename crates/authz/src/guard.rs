//! Who calls, and whether they may: the two questions in front of every handler.

use std::sync::Arc;

use policy::{Action, Policy, Subject};
use problem::{Kind, Problem};
use sha256::Sha256Digest;

use crate::{
    Clock, PassportClaims, PassportKeys, Principal, TokenError, UnixTime,
    metrics::{Counters, Decision},
    token::{LEEWAY_S, TOKEN_BYTES_MAX},
    verified_cache::VerifiedCache,
};

/// How old a login may be and still count as fresh.
pub const FRESH_LOGIN_S: u64 = 5 * 60;

/// Answers both questions for one service. Make it after the metrics recorder is installed.
pub struct Guard {
    audience: String,
    keys: Arc<PassportKeys>,
    policy: Arc<Policy>,
    clock: Clock,
    verified: VerifiedCache,
    counters: Counters,
}

// === impl Guard ===

impl Guard {
    /// A guard that accepts passports for `audience`, which is the service's name.
    pub fn new(audience: &str, keys: Arc<PassportKeys>, policy: Arc<Policy>, clock: Clock) -> Self {
        Self {
            audience: audience.to_owned(),
            keys,
            policy,
            clock,
            verified: VerifiedCache::new(),
            counters: Counters::new(),
        }
    }

    /// The caller with this passport; without one, anonymous. An invalid passport is an error, on anonymous routes too.
    pub fn identify(&self, passport: Option<&str>) -> Result<Principal, TokenError> {
        let Some(passport) = passport else { return Ok(Principal::Anonymous) };
        if passport.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let now = self.clock.now();
        let digest = Sha256Digest::of(passport.as_bytes());
        // Read before verifying: if a key is removed meanwhile, the entry is out of date already.
        let generation = self.keys.generation();
        if let Some(claims) = self.verified.get(&digest, generation, now) {
            return Ok(Principal::User(claims));
        }
        let claims = Arc::new(self.keys.verify(passport, &self.audience, now)?);
        self.verified.insert(digest, generation, Arc::clone(&claims), now);
        Ok(Principal::User(claims))
    }

    /// Whether the caller may do this. For a handler that shows more to callers with more rights.
    pub fn allows(&self, principal: &Principal, action: Action) -> bool {
        self.policy.allows(self.subject(principal), action)
    }

    /// Whether the caller may do this, counted, with the answer to give if not: 401 to an anonymous caller, 403 to others.
    pub fn check(&self, principal: &Principal, action: Action) -> Result<(), Problem> {
        if self.allows(principal, action) {
            self.counters.count(action, Decision::Allow);
            return Ok(());
        }
        if matches!(principal, Principal::Anonymous) {
            self.counters.count(action, Decision::Unauthenticated);
            return Err(Problem::missing_token());
        }
        self.counters.count(action, Decision::Deny);
        tracing::debug!(%principal, %action, "call denied by policy; the caller gets 403");
        Err(Problem::new(Kind::PermissionDenied, self.denial(principal, action)))
    }

    /// The answer to an invalid passport.
    pub(crate) fn reject(&self, reject: TokenError, action: Action) -> Problem {
        self.counters.count(action, Decision::Unauthenticated);
        tracing::info!(%action, reason = %reject, "passport refused; the caller gets 401");
        Problem::new(Kind::Unauthenticated, "the credentials are not valid, or no longer")
    }

    fn subject<'a>(&self, principal: &'a Principal) -> Subject<'a> {
        match principal {
            Principal::Anonymous => Subject::Anonymous,
            Principal::Service(peer) => Subject::Service(&peer.service),
            Principal::User(claims) => {
                Subject::User { roles: claims.roles, fresh_login: is_fresh(claims, self.clock.now()) }
            }
        }
    }

    fn denial(&self, principal: &Principal, action: Action) -> String {
        let after_login = principal
            .passport()
            .is_some_and(|claims| self.policy.allows(Subject::User { roles: claims.roles, fresh_login: true }, action));
        if after_login {
            format!(
                "{action:?} needs a login within the last {FRESH_LOGIN_S} seconds: log in again",
                action = action.as_str()
            )
        } else {
            format!("none of your roles allows {:?}", action.as_str())
        }
    }
}

/// A login in the future is a fault or a lie, and not fresh.
fn is_fresh(claims: &PassportClaims, now: UnixTime) -> bool {
    claims.auth_time <= now.saturating_add(LEEWAY_S) && now.saturating_sub(claims.auth_time) <= FRESH_LOGIN_S
}
