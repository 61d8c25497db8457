//! Revocations, remembered for as long as a token could live that they are about: each grant is compared with them, whichever
//! gateway gave it. A gateway that is cut off from its database would go on granting what was revoked elsewhere.
//!
//! Two things are not remembered one by one, and are known by their place in the gateways' feed of changes:
//!
//! - what was revoked while no stream was followed (before a start, for example). A gateway that has not applied the feed as
//!   far as that is believed only where no other can be asked;
//! - the oldest beyond [`REVOCATIONS_MAX`]. A gateway that has not applied those grants nothing.
//!
//! After a restore of their database the gateways count versions and places from beyond all that were given out. Where that was
//! not done, what was granted by lower ones is outdated for [`remembered`] at most: refused rather than wrong. So is a user who
//! was deleted and is there again.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use authz::TokenKind;

use super::grant::Grant;

/// Revocations that are remembered one by one: 99 in each second, at a few hundred bytes each.
pub(super) const REVOCATIONS_MAX: usize = 65_536;

/// The version of a revocation that no grant outlives.
pub(super) const FINAL: u64 = u64::MAX;

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Revoked {
    /// One token.
    Token(String),
    /// All tokens of one login.
    Session(String),
    /// All passports of one subject.
    Subject(String),
}

/// A revocation, and where it stands among other changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) revoked: Revoked,
    /// Grants of a lower version are over.
    pub(super) authz_version: u64,
    /// A gateway that has applied the feed up to here knows of it.
    pub(super) feed_position: u64,
}

/// What remembered revocations say of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Good,
    /// Its gateway may lack a revocation that this process did not see either.
    Doubtful,
    /// Its gateway lacks a change of the subject's rights, or a revocation that is forgotten here: it does not count.
    Outdated,
    /// Its token is not valid any more.
    Revoked,
}

/// Revocations by what they name.
#[derive(Default)]
pub(super) struct RevocationLog {
    by_name: HashMap<Revoked, Remembered>,
    /// By age. Something with several versions is here once for each.
    order: VecDeque<(Revocation, Instant)>,
    /// The newest that had to be forgotten early.
    forgotten: Option<Place>,
    /// Up to where revocations may have been missed.
    missed: Option<Place>,
}

#[derive(Clone, Copy)]
struct Remembered {
    authz_version: u64,
    until: Instant,
}

/// A place in the feed, and until when it matters.
#[derive(Clone, Copy)]
struct Place {
    feed_position: u64,
    until: Instant,
}

/// For how long a revocation matters: no access token lives longer, and a minute for clocks that differ.
pub(super) fn remembered() -> Duration {
    Duration::from_secs(TokenKind::Access.lifetime_max_s() + 60)
}

// === impl Revocation ===

impl Revocation {
    /// Whether it ends this grant.
    pub(super) fn ends(&self, grant: &Grant) -> bool {
        let is_named = match &self.revoked {
            Revoked::Token(id) => *id == grant.token_id,
            Revoked::Session(id) => *id == grant.session_id,
            Revoked::Subject(id) => **id == *grant.principal.subject,
        };
        is_named && grant.authz_version < self.authz_version
    }
}

// === impl RevocationLog ===

impl RevocationLog {
    /// Remembers a revocation. False if it was known: every gateway tells of each.
    pub(super) fn push(&mut self, revocation: &Revocation, now: Instant) -> bool {
        self.forget_expired(now);
        let known = self.by_name.get(&revocation.revoked);
        if known.is_some_and(|known| known.authz_version >= revocation.authz_version) {
            return false;
        }
        let until = now + remembered();
        let remembered = Remembered { authz_version: revocation.authz_version, until };
        self.by_name.insert(revocation.revoked.clone(), remembered);
        self.order.push_back((revocation.clone(), until));
        if self.order.len() > REVOCATIONS_MAX
            && let Some((oldest, until)) = self.pop_oldest()
        {
            advance(&mut self.forgotten, Place { feed_position: oldest.feed_position, until }, now);
        }
        true
    }

    /// Revocations up to this place in the feed may have been missed.
    pub(super) fn miss_up_to(&mut self, feed_position: u64, now: Instant) {
        advance(&mut self.missed, Place { feed_position, until: now + remembered() }, now);
    }

    /// What is remembered about a new grant.
    pub(super) fn judge(&self, grant: &Grant, now: Instant) -> Verdict {
        let names = [
            Revoked::Token(grant.token_id.clone()),
            Revoked::Session(grant.session_id.clone()),
            Revoked::Subject(grant.principal.subject.to_string()),
        ];
        let known = names.iter().filter_map(|name| self.by_name.get(name)).filter(|known| known.until > now);
        let version = known.map(|known| known.authz_version).max().unwrap_or(0);
        let is_before = |place: Option<Place>| {
            place.is_some_and(|place| place.until > now && grant.feed_position < place.feed_position)
        };
        if version == FINAL {
            Verdict::Revoked
        } else if grant.authz_version < version || is_before(self.forgotten) {
            Verdict::Outdated
        } else if is_before(self.missed) {
            Verdict::Doubtful
        } else {
            Verdict::Good
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(_, until)| *until <= now) {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) -> Option<(Revocation, Instant)> {
        let (oldest, until) = self.order.pop_front()?;
        // A later version of the same has an entry of its own.
        if self.by_name.get(&oldest.revoked).is_some_and(|known| known.authz_version == oldest.authz_version) {
            self.by_name.remove(&oldest.revoked);
        }
        Some((oldest, until))
    }
}

/// A place that matters no more is replaced by any other.
fn advance(place: &mut Option<Place>, new: Place, now: Instant) {
    let is_further = |old: Place| old.until <= now || new.feed_position >= old.feed_position;
    if place.is_none_or(is_further) {
        *place = Some(new);
    }
}

#[cfg(test)]
mod tests;
