//! The public keys that a service verifies with, replaceable while it runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    ACCESS_TOKEN_AUDIENCE, AccessTokenClaims, Claims, KeyError, PassportClaims, TokenError, UnixTime, keys::KeySet,
    token,
};

/// The keys that passports are verified with. Without any, as at first, every passport is refused.
#[derive(Default)]
pub struct PassportKeys {
    keyring: Keyring,
    unknown_key: Notify,
}

/// The keys that access tokens are verified with; the gateway's own.
#[derive(Default)]
pub struct AccessTokenKeys(Keyring);

/// A key set, and how often a key was removed from it.
#[derive(Default)]
struct Keyring(ArcSwap<Numbered>);

#[derive(Default)]
struct Numbered {
    keys: Arc<KeySet>,
    generation: u64,
}

// === impl PassportKeys ===

impl PassportKeys {
    /// Trusts exactly the keys of this JWK set from now on; on an error, the former keys stay. Returns their number.
    pub fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        self.keyring.replace(jwks)
    }

    /// Whether there is no key yet.
    pub fn is_empty(&self) -> bool {
        self.keyring.0.load().keys.len() == 0
    }

    /// The claims of a passport that is good for `audience` at `now`.
    pub fn verify(&self, passport: &str, audience: &str, now: UnixTime) -> Result<PassportClaims, TokenError> {
        let verified = self.keyring.verify(passport, audience, now);
        if matches!(verified, Err(TokenError::UnknownKey)) {
            self.unknown_key.notify_one();
        }
        verified
    }

    /// Waits until a passport came whose key is not known: the gateway may have a new one. A caller that fetches keys on this
    /// must limit how often: any client can cause it with a made-up `kid`.
    pub async fn wait_for_unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Rises whenever a key is removed: what was verified before must be verified again.
    pub(crate) fn generation(&self) -> u64 {
        self.keyring.0.load().generation
    }
}

// === impl AccessTokenKeys ===

impl AccessTokenKeys {
    /// Trusts exactly the keys of this JWK set from now on; on an error, the former keys stay. Returns their number.
    pub fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        self.0.replace(jwks)
    }

    /// The claims of an access token that is good at `now`. Whether it was revoked is another question.
    pub fn verify(&self, access_token: &str, now: UnixTime) -> Result<AccessTokenClaims, TokenError> {
        self.0.verify(access_token, ACCESS_TOKEN_AUDIENCE, now)
    }

    /// The claims of an access token that one of the keys signed, even if it has expired: proof of its owner, and of nothing else.
    pub fn claims_if_signed(&self, access_token: &str) -> Result<AccessTokenClaims, TokenError> {
        token::verify_signed(&self.0.0.load().keys, access_token, ACCESS_TOKEN_AUDIENCE)
    }
}

// === impl Keyring ===

impl Keyring {
    fn replace(&self, jwks: &str) -> Result<usize, KeyError> {
        let keys = Arc::new(KeySet::from_jwks(jwks)?);
        self.0.rcu(|present| {
            let is_key_removed = !present.keys.is_within(&keys);
            Numbered { keys: Arc::clone(&keys), generation: present.generation + u64::from(is_key_removed) }
        });
        Ok(keys.len())
    }

    fn verify<C: Claims>(&self, token: &str, audience: &str, now: UnixTime) -> Result<C, TokenError> {
        token::verify(&self.0.load().keys, token, audience, now)
    }
}
