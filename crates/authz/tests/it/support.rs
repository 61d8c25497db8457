//! Keys, claims and tokens to try things with.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use authz::{AccessTokenClaims, Clock, Guard, PassportClaims, PassportKeys, SigningKey, jwks_json};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use policy::{Policy, Role, Roles};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_800_000_000;

/// A gateway: its key, and the keys that services have of it.
pub(crate) struct Gateway {
    pub(crate) key: SigningKey,
    pub(crate) pair: Ed25519KeyPair,
    pub(crate) keys: Arc<PassportKeys>,
}

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct ManualClock(Arc<AtomicU64>);

impl Gateway {
    pub(crate) fn new() -> Self {
        let pem = authz::generate_pkcs8_pem().unwrap();
        let key = SigningKey::from_pkcs8_pem(&pem).unwrap();
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let keys = Arc::new(PassportKeys::default());
        keys.replace(&jwks_json(&[key.public().clone()])).unwrap();
        Self { pair: Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap(), key, keys }
    }

    pub(crate) fn passport(&self, roles: impl Into<Roles>) -> String {
        self.key.sign(&claims(roles)).unwrap()
    }

    pub(crate) fn guard(&self, hand: &ManualClock) -> Arc<Guard> {
        let policy = Arc::new(Policy::embedded().unwrap());
        Arc::new(Guard::new("serving", Arc::clone(&self.keys), policy, hand.clock()))
    }

    /// Header and payload as they are, signed.
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "typ": "passport+jwt", "kid": self.key.public().kid() })
    }
}

impl ManualClock {
    pub(crate) fn at(now: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now)))
    }

    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = Arc::clone(&self.0);
        Clock::from_fn(move || hand.load(Ordering::SeqCst))
    }
}

pub(crate) fn claims(roles: impl Into<Roles>) -> PassportClaims {
    PassportClaims {
        aud: "serving".into(),
        sub: "0198-user".into(),
        tenant: "default".into(),
        roles: roles.into(),
        client_id: "cli".into(),
        sid: "0198-session".into(),
        jti: "0198-passport".into(),
        auth_time: NOW - 3600,
        token_exp: None,
        iat: NOW,
        nbf: NOW,
        exp: NOW + 60,
    }
}

pub(crate) fn access_claims() -> AccessTokenClaims {
    AccessTokenClaims {
        aud: authz::ACCESS_TOKEN_AUDIENCE.into(),
        sub: "0198-user".into(),
        tenant: "default".into(),
        roles: Role::Viewer.into(),
        client_id: "cli".into(),
        sid: "0198-session".into(),
        jti: "0198-token".into(),
        ver: 3,
        auth_time: NOW - 3600,
        iat: NOW,
        nbf: NOW,
        exp: NOW + 600,
    }
}

/// The payload of a good passport, to be spoilt.
pub(crate) fn payload() -> Value {
    let mut payload = serde_json::to_value(claims(Role::Analyst)).unwrap();
    payload["iss"] = json!(authz::ISSUER);
    payload
}
