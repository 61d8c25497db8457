//! Passports that were verified, by digest, so that a signature is checked once and not at every call.
//!
//! Only verified passports come in, so an attacker cannot fill it; an entry that has expired, or was verified with a key that
//! is gone, is not used.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use parking_lot::RwLock;
use sha256::Sha256Digest;

use crate::{PassportClaims, UnixTime, token};

const SHARDS: usize = 16;
const SHARD_ENTRIES_MAX: usize = 625;

pub(crate) struct VerifiedCache {
    shards: [RwLock<HashMap<Sha256Digest, VerifiedPassport>>; SHARDS],
    shard_of: RandomState,
}

struct VerifiedPassport {
    claims: Arc<PassportClaims>,
    keys_generation: u64,
}

// === impl VerifiedCache ===

impl VerifiedCache {
    /// How many passports are cached at most.
    #[cfg(test)]
    pub(crate) const ENTRIES_MAX: usize = SHARDS * SHARD_ENTRIES_MAX;

    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), shard_of: RandomState::new() }
    }

    /// The claims, if this passport was verified with keys that are still in use, and is valid at `now`.
    pub(crate) fn get(
        &self,
        digest: &Sha256Digest,
        keys_generation: u64,
        now: UnixTime,
    ) -> Option<Arc<PassportClaims>> {
        let shard = self.shard(digest).read();
        let entry = shard.get(digest)?;
        let is_valid =
            entry.keys_generation == keys_generation && token::check_time(entry.claims.as_ref(), now).is_ok();
        is_valid.then(|| Arc::clone(&entry.claims))
    }

    /// Adds a passport that was just verified. A full shard drops what has expired, else what expires first.
    pub(crate) fn insert(
        &self,
        digest: Sha256Digest,
        keys_generation: u64,
        claims: Arc<PassportClaims>,
        now: UnixTime,
    ) {
        let mut shard = self.shard(&digest).write();
        if shard.len() >= SHARD_ENTRIES_MAX {
            shard.retain(|_, entry| token::check_time(entry.claims.as_ref(), now).is_ok());
        }
        if shard.len() >= SHARD_ENTRIES_MAX {
            let first = shard.iter().min_by_key(|(_, entry)| entry.claims.exp).map(|(digest, _)| *digest);
            first.and_then(|digest| shard.remove(&digest));
        }
        shard.insert(digest, VerifiedPassport { claims, keys_generation });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    #[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "the remainder is a shard's index")]
    fn shard(&self, digest: &Sha256Digest) -> &RwLock<HashMap<Sha256Digest, VerifiedPassport>> {
        &self.shards[self.shard_of.hash_one(digest) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use policy::Roles;

    use super::*;

    const NOW: UnixTime = 1_800_000_000;

    fn claims(exp: UnixTime) -> Arc<PassportClaims> {
        Arc::new(PassportClaims {
            aud: "serving".into(),
            sub: "u".into(),
            tenant: "t".into(),
            roles: Roles::default(),
            client_id: "c".into(),
            sid: "s".into(),
            jti: "j".into(),
            auth_time: exp - 60,
            token_exp: None,
            iat: exp - 60,
            nbf: exp - 60,
            exp,
        })
    }

    fn digest(number: usize) -> Sha256Digest {
        Sha256Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let cache = VerifiedCache::new();
        for number in 0..3 * VerifiedCache::ENTRIES_MAX {
            cache.insert(digest(number), 0, claims(NOW + 60), NOW);
        }
        assert_eq!(cache.len(), VerifiedCache::ENTRIES_MAX);
        let newest = digest(3 * VerifiedCache::ENTRIES_MAX - 1);
        assert!(cache.get(&newest, 0, NOW).is_some());
    }

    #[test]
    fn expired_entries_are_evicted_first_and_then_the_first_to_expire() {
        let cache = VerifiedCache::new();
        for number in 0..2 * VerifiedCache::ENTRIES_MAX {
            cache.insert(digest(number), 0, claims(NOW), NOW);
        }
        cache.insert(digest(usize::MAX), 0, claims(NOW + 70), NOW + 60);
        let shard_emptied = VerifiedCache::ENTRIES_MAX - SHARD_ENTRIES_MAX + 1;
        assert_eq!(cache.len(), shard_emptied, "the full shard dropped all that had expired");

        let cache = VerifiedCache::new();
        cache.insert(digest(0), 0, claims(NOW + 1), NOW);
        for number in 1..2 * VerifiedCache::ENTRIES_MAX {
            cache.insert(digest(number), 0, claims(NOW + 60), NOW);
        }
        assert!(cache.get(&digest(0), 0, NOW).is_none(), "the first to expire was evicted first");
    }

    #[test]
    fn entries_of_another_key_generation_are_not_used() {
        let cache = VerifiedCache::new();
        cache.insert(digest(1), 7, claims(NOW + 60), NOW);
        assert!(cache.get(&digest(1), 7, NOW).is_some());
        assert!(cache.get(&digest(1), 8, NOW).is_none());
        assert!(cache.get(&digest(2), 7, NOW).is_none());
    }
}
