//! Verifying a token, the same way for both kinds.
//!
//! Nothing in the token chooses how it is verified: the algorithm is EdDSA, the key is the one that this service has under
//! the `kid`, and `jku`, `jwk`, `x5u` and `x5c` are ignored. Time is checked here and not in `jsonwebtoken`, whose
//! defaults (60 s of leeway, no `nbf`) are too lax and whose clock is no parameter.

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};

use crate::{Claims, ISSUER, UnixTime, keys::KeySet};

/// The longest token that is parsed.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// How far the clocks of two hosts may be apart.
pub const LEEWAY_S: u64 = 2;

/// Why a token is refused. Callers only learn that it is; this is for logs and tests. As a text, one word for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TokenError {
    /// Over [`TOKEN_BYTES_MAX`], and not parsed for that reason.
    #[error("token is over 4 KiB")]
    TooLong,
    /// Not three parts of base64url JSON with every required claim, each once.
    #[error("token is malformed")]
    Malformed,
    /// Signed with another algorithm than EdDSA, or none.
    #[error("token is not signed with EdDSA")]
    WrongAlgorithm,
    /// A token of another kind.
    #[error("token has another type")]
    WrongType,
    /// No known key has this `kid`.
    #[error("token names an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("token signature is wrong")]
    BadSignature,
    /// Another issuer.
    #[error("token has another issuer")]
    WrongIssuer,
    /// For another audience.
    #[error("token is for another audience")]
    WrongAudience,
    /// Its `exp` is past.
    #[error("token has expired")]
    Expired,
    /// Its `nbf` or `iat` is in the future.
    #[error("token is not valid yet")]
    NotYet,
    /// Valid for longer than its kind may be.
    #[error("token is valid for too long")]
    LifetimeTooLong,
}

static VALIDATION: LazyLock<Validation> = LazyLock::new(|| {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "nbf", "exp"]);
    // Checked below, against a clock that is a parameter and an audience that must be exactly one string.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
});

/// The claims of the token, if it is of kind `C`, signed by a key of the set, for `audience`, and good at `now`.
pub(crate) fn verify<C: Claims>(keys: &KeySet, token: &str, audience: &str, now: UnixTime) -> Result<C, TokenError> {
    let claims = verify_signed(keys, token, audience)?;
    check_time(&claims, now)?;
    Ok(claims)
}

/// The same, whatever the time is.
pub(crate) fn verify_signed<C: Claims>(keys: &KeySet, token: &str, audience: &str) -> Result<C, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let header = jsonwebtoken::decode_header(token).map_err(reject)?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::WrongAlgorithm);
    }
    if header.typ.as_deref() != Some(C::KIND.typ()) {
        return Err(TokenError::WrongType);
    }
    if header.crit.is_some() {
        // RFC 7515 4.1.11: a verifier rejects critical extensions that it does not understand; this one understands none.
        return Err(TokenError::Malformed);
    }
    let kid = header.kid.as_deref().ok_or(TokenError::UnknownKey)?;
    let key = keys.get(kid).ok_or(TokenError::UnknownKey)?;
    let claims = jsonwebtoken::decode::<C>(token, key, &VALIDATION).map_err(reject)?.claims;
    if claims.audience() != audience {
        return Err(TokenError::WrongAudience);
    }
    Ok(claims)
}

/// Whether the claims are valid at `now`. Checked again each time that a cached token is used.
pub(crate) fn check_time<C: Claims>(claims: &C, now: UnixTime) -> Result<(), TokenError> {
    let validity = claims.validity();
    if validity.exp.saturating_sub(validity.iat) > C::KIND.lifetime_max_s() {
        return Err(TokenError::LifetimeTooLong);
    }
    if now >= validity.exp.saturating_add(LEEWAY_S) {
        return Err(TokenError::Expired);
    }
    let latest_start = validity.nbf.max(validity.iat);
    if latest_start > now.saturating_add(LEEWAY_S) {
        return Err(TokenError::NotYet);
    }
    Ok(())
}

fn reject(error: jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::WrongAlgorithm,
        _ => TokenError::Malformed,
    }
}
