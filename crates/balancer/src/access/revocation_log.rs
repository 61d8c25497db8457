//! The last revocations, in order, so that an answer of a gateway can be compared with those that overtook it.

use std::collections::VecDeque;

use super::grant::Grant;

/// Revocations that are compared with calls in flight.
pub(super) const REVOCATIONS_MAX: usize = 1024;

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revocation {
    /// One token.
    Token(String),
    /// All tokens of one login.
    Session(String),
    /// All passports of one subject.
    Subject(String),
}

/// The last [`REVOCATIONS_MAX`] revocations.
#[derive(Default)]
pub(super) struct RevocationLog {
    /// How many there have been in all.
    pub(super) count: u64,
    last: VecDeque<Revocation>,
}

// === impl Revocation ===

impl Revocation {
    pub(super) fn matches(&self, grant: &Grant) -> bool {
        match self {
            Self::Token(id) => *id == grant.token_id,
            Self::Session(id) => *id == grant.session_id,
            Self::Subject(id) => **id == *grant.principal.subject,
        }
    }
}

// === impl RevocationLog ===

impl RevocationLog {
    pub(super) fn push(&mut self, revocation: Revocation) {
        self.count += 1;
        self.last.push_back(revocation);
        if self.last.len() > REVOCATIONS_MAX {
            self.last.pop_front();
        }
    }

    /// Whether a revocation after the first `count` names this grant, or may have: older ones than the log holds count as
    /// a match.
    pub(super) fn matches_since(&self, count: u64, grant: &Grant) -> bool {
        let newer = usize::try_from(self.count - count).unwrap_or(usize::MAX);
        newer > self.last.len() || self.last.iter().rev().take(newer).any(|revocation| revocation.matches(grant))
    }
}
