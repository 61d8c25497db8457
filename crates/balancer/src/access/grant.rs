//! What a gateway is asked and what it grants.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method};
use sha256::Sha256Digest;

use crate::callers::Principal;

/// What a gateway granted.
#[derive(Debug)]
pub struct Grant {
    /// Empty when the grant is for one request.
    pub passport: HeaderValue,
    /// Who it is for.
    pub principal: Principal,
    pub(super) expires: Instant,
    pub(super) received: Instant,
    pub(super) session_id: String,
    pub(super) token_id: String,
    /// The version of the subject's rights that it was granted by.
    pub(super) authz_version: u64,
    /// How far the gateway had applied the feed of changes.
    pub(super) feed_position: u64,
    /// The cache's epoch when the call began; a grant of an older epoch is stale.
    pub(super) epoch: u64,
    /// The gateway is cut off from its database, or lags, and may have missed a revocation.
    pub(super) is_stale: bool,
}

/// Why there is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The token is not, or no longer, valid.
    #[error("the bearer token is not valid, or no longer: sign in again (POST /api/auth/token)")]
    Unauthenticated,
    /// The token is valid, and its owner may not make this request.
    #[error("none of the roles of this token allows this (GET /api/auth/me lists them)")]
    PermissionDenied,
    /// No gateway could be asked.
    #[error("no gateway can judge the token at the moment; try again")]
    Unavailable,
}

/// One call's result, shared by all requests that wait for it.
pub(super) type GrantResult = Result<Arc<Grant>, AccessError>;

/// What is asked for: a passport to an audience, or permission for one request there.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrantRequest<'a> {
    pub(super) token: &'a str,
    pub(super) audience: &'static str,
    pub(super) request: Option<(&'a Method, &'a str)>,
}

/// A token, its audience, and the request if permission is for one. Tokens are stored as hashes only; paths too, since a
/// client chooses how long they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GrantKey {
    pub(super) token: Sha256Digest,
    audience: &'static str,
    request: Option<Sha256Digest>,
}

// === impl Grant ===

impl Grant {
    /// From here on it is renewed when it is used.
    pub(super) fn half_life(&self) -> Instant {
        self.received + self.expires.saturating_duration_since(self.received) / 2
    }
}

// === impl GrantKey ===

impl GrantKey {
    pub(super) fn new(request: GrantRequest<'_>) -> Self {
        let GrantRequest { token, audience, request } = request;
        // No method contains a space, so no other method and path make the same text.
        let request = request.map(|(method, path)| Sha256Digest::of(format!("{method} {path}").as_bytes()));
        Self { token: Sha256Digest::of(token.as_bytes()), audience, request }
    }
}
