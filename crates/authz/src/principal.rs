//! The caller of a request.

use std::{fmt, sync::Arc};

use identity::PeerName;

use crate::PassportClaims;

/// The caller of a request, as far as it was proven. Handlers find it among the request's extensions.
#[derive(Clone, Debug)]
pub enum Principal {
    /// No credentials were sent.
    Anonymous,
    /// A person or client whose passport was verified.
    User(Arc<PassportClaims>),
    /// A service whose certificate was verified.
    Service(PeerName),
}

// === impl Principal ===

impl Principal {
    /// The passport, if the caller has one.
    pub fn passport(&self) -> Option<&PassportClaims> {
        match self {
            Self::User(claims) => Some(claims),
            Self::Anonymous | Self::Service(_) => None,
        }
    }
}

/// For logs and the audit trail: `anonymous`, `user:<sub>` or `service:<service>/<instance>`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(claims) => write!(f, "user:{}", claims.sub),
            Self::Service(peer) => write!(f, "service:{}/{}", peer.service, peer.instance),
        }
    }
}
