//! The public keys that a service verifies with, replaceable while it runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    ACCESS_TOKEN_AUDIENCE, AccessTokenClaims, Claims, KeyError, PassportClaims, TokenError, UnixTime, keys::Ring, token,
};

/// The keys that passports are verified with. Empty at first, and then no passport is believed.
#[derive(Default)]
pub struct PassportKeys {
    keyring: Keyring,
    unknown_kid: Notify,
}

/// The keys that access tokens are verified with; the gateway's own.
#[derive(Default)]
pub struct AccessTokenKeys(Keyring);

/// A ring of keys and how often it has lost one.
#[derive(Default)]
struct Keyring(ArcSwap<Numbered>);

#[derive(Default)]
struct Numbered {
    ring: Arc<Ring>,
    generation: u64,
}

// === impl PassportKeys ===

impl PassportKeys {
    /// Believes exactly the keys of this JWK set from now on; on an error, the former keys stay. Answers their number.
    pub fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        self.keyring.replace(jwks)
    }

    /// Whether there is no key yet.
    pub fn is_empty(&self) -> bool {
        self.keyring.0.load().ring.len() == 0
    }

    /// The claims of a passport that is good for `audience` at `now`.
    pub fn verify(&self, passport: &str, audience: &str, now: UnixTime) -> Result<PassportClaims, TokenError> {
        let verified = self.keyring.verify(passport, audience, now);
        if matches!(verified, Err(TokenError::UnknownKey)) {
            self.unknown_kid.notify_one();
        }
        verified
    }

    /// Waits until a passport came whose key is not known: the gateway may have a new one. Whoever asks for keys on this
    /// must limit how often, since anybody's nonsense can cause it.
    pub async fn unknown_kid(&self) {
        self.unknown_kid.notified().await;
    }

    /// Rises whenever a key is no longer believed: what was verified before must be verified again.
    pub(crate) fn generation(&self) -> u64 {
        self.keyring.0.load().generation
    }
}

// === impl AccessTokenKeys ===

impl AccessTokenKeys {
    /// Believes exactly the keys of this JWK set from now on; on an error, the former keys stay. Answers their number.
    pub fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        self.0.replace(jwks)
    }

    /// The claims of an access token that is good at `now`. Whether it was revoked is another question.
    pub fn verify(&self, access_token: &str, now: UnixTime) -> Result<AccessTokenClaims, TokenError> {
        self.0.verify(access_token, ACCESS_TOKEN_AUDIENCE, now)
    }

    /// The claims of an access token that one of the keys signed, though it may be over: whose it was, and nothing else.
    pub fn claims_if_signed(&self, access_token: &str) -> Result<AccessTokenClaims, TokenError> {
        token::verify_signed(&self.0.0.load().ring, access_token, ACCESS_TOKEN_AUDIENCE)
    }
}

// === impl Keyring ===

impl Keyring {
    fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        let ring = Arc::new(Ring::from_jwks(jwks)?);
        self.0.rcu(|present| {
            let lost_a_key = !present.ring.is_within(&ring);
            Numbered { ring: Arc::clone(&ring), generation: present.generation + u64::from(lost_a_key) }
        });
        Ok(ring.len())
    }

    fn verify<C: Claims>(&self, token: &str, audience: &str, now: UnixTime) -> Result<C, TokenError> {
        token::verify(&self.0.load().ring, token, audience, now)
    }
}
