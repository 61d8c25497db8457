//! Ed25519 keys: the gateway's private ones, the public ones of all services, and their JWK form.

use std::collections::HashMap;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha256::Sha256Digest;
use zeroize::Zeroizing;

use crate::{Claims, ISSUER};

const PUBLIC_KEY_BYTES: usize = 32;
const JWKS_BYTES_MAX: usize = 64 * 1024;
const JWKS_KEYS_MAX: usize = 16;

/// Why a key or a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a PEM file with an Ed25519 key in PKCS#8.
    #[error("not an Ed25519 private key in PKCS#8 PEM")]
    NotPkcs8Pem,
    /// The machine gave no randomness.
    #[error("no key could be generated")]
    Generate,
    /// The text is not a JWK set.
    #[error("not a JWK set")]
    NotJwks(#[source] serde_json::Error),
    /// Over a limit.
    #[error("the JWK set is over 64 KiB or has more than 16 keys")]
    TooMany,
    /// A key's `kid` is not its RFC 7638 thumbprint, or its `x` no 32 bytes.
    #[error("the JWK set has a key whose kid is not its thumbprint, or whose x is not a public key")]
    NotAThumbprint,
    /// No Ed25519 key in it.
    #[error("the JWK set has no Ed25519 key")]
    Empty,
    /// The claims hold longer than their kind may.
    #[error("the claims hold for longer than their kind may")]
    Lifetime,
    /// The token could not be signed.
    #[error("the token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A private key of the gateway.
pub struct SigningKey {
    public: PublicKey,
    key: EncodingKey,
}

/// The public half of a key, under its RFC 7638 thumbprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kid: String,
    x: [u8; PUBLIC_KEY_BYTES],
}

/// Public keys by `kid`.
#[derive(Default)]
pub(crate) struct KeySet(HashMap<String, DecodingKey>);

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize, Serialize)]
struct Jwk {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "use")]
    usage: Option<String>,
}

/// A new private key, as the text of its file.
pub fn generate_pkcs8_pem() -> Result<Zeroizing<String>, KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Generate)?;
    // 48 bytes are 64 characters: exactly the one line that RFC 7468 allows.
    let line = Zeroizing::new(STANDARD.encode(der.as_ref()));
    Ok(Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *line)))
}

/// A JWK set (RFC 7517) of public keys, to be published.
pub fn jwks_json(keys: &[PublicKey]) -> String {
    let keys: Vec<Jwk> = keys.iter().map(Jwk::from).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

// === impl SigningKey ===

impl SigningKey {
    /// Reads a key from the text of its file.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NotPkcs8Pem)?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| KeyError::NotPkcs8Pem)?;
        let public = PublicKey::new(pair.public_key().as_ref()).ok_or(KeyError::NotPkcs8Pem)?;
        Ok(Self { public, key: EncodingKey::from_ed_der(der.secret_pkcs8_der()) })
    }

    /// The half to publish.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The token that says `claims`. Refuses claims that no verifier would accept.
    pub fn sign<C: Claims>(&self, claims: &C) -> Result<String, KeyError> {
        #[derive(Serialize)]
        struct SignedClaims<'a, C> {
            iss: &'static str,
            #[serde(flatten)]
            claims: &'a C,
        }
        let validity = claims.validity();
        if validity.exp.saturating_sub(validity.iat) > C::KIND.lifetime_max_s() || validity.nbf >= validity.exp {
            return Err(KeyError::Lifetime);
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(C::KIND.typ().to_owned());
        header.kid = Some(self.public.kid.clone());
        jsonwebtoken::encode(&header, &SignedClaims { iss: ISSUER, claims }, &self.key).map_err(KeyError::Sign)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.public.kid).finish_non_exhaustive()
    }
}

// === impl PublicKey ===

impl PublicKey {
    fn new(x: &[u8]) -> Option<Self> {
        let x: [u8; PUBLIC_KEY_BYTES] = x.try_into().ok()?;
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(x));
        Some(Self { kid: URL_SAFE_NO_PAD.encode(Sha256Digest::of(members.as_bytes()).as_bytes()), x })
    }

    /// Its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl From<&PublicKey> for Jwk {
    fn from(key: &PublicKey) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: Some("Ed25519".to_owned()),
            x: Some(URL_SAFE_NO_PAD.encode(key.x)),
            kid: Some(key.kid.clone()),
            alg: Some("EdDSA".to_owned()),
            usage: Some("sig".to_owned()),
        }
    }
}

// === impl KeySet ===

impl KeySet {
    /// Reads a JWK set. Keys of other kinds are skipped, so that a later version may publish them; a false `kid` is not.
    pub(crate) fn from_jwks(json: &str) -> Result<Self, KeyError> {
        if json.len() > JWKS_BYTES_MAX {
            return Err(KeyError::TooMany);
        }
        let set: JwkSet = serde_json::from_str(json).map_err(KeyError::NotJwks)?;
        if set.keys.len() > JWKS_KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let mut by_kid = HashMap::new();
        for jwk in set.keys.iter().filter(|jwk| jwk.is_ed25519()) {
            let key = jwk.public_key().ok_or(KeyError::NotAThumbprint)?;
            by_kid.insert(key.kid, DecodingKey::from_ed_der(&key.x));
        }
        if by_kid.is_empty() { Err(KeyError::Empty) } else { Ok(Self(by_kid)) }
    }

    pub(crate) fn get(&self, kid: &str) -> Option<&DecodingKey> {
        self.0.get(kid)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every key of this set is also in the other. A `kid` is a hash of its key, so equal names are equal keys.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.keys().all(|kid| other.0.contains_key(kid))
    }
}

// === impl Jwk ===

impl Jwk {
    fn is_ed25519(&self) -> bool {
        self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519")
    }

    fn public_key(&self) -> Option<PublicKey> {
        let x = URL_SAFE_NO_PAD.decode(self.x.as_deref()?).ok()?;
        let key = PublicKey::new(&x)?;
        (self.kid.as_deref() == Some(&key.kid)).then_some(key)
    }
}
