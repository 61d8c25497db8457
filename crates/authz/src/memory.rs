//! Passports that were verified, by digest, so that a signature is checked once and not at every call.
//!
//! Only what was verified comes in, so an attacker cannot fill it; nothing is believed from here that a fresh check of
//! the time, or a changed key set, would reject.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{PassportClaims, UnixTime, token};

const SHARDS: usize = 16;
const SHARD_ENTRIES_MAX: usize = 625;

/// SHA-256 of a passport.
pub(crate) type Digest = [u8; 32];

pub(crate) struct Memory {
    shards: [RwLock<HashMap<Digest, Remembered>>; SHARDS],
    shard_of: RandomState,
}

struct Remembered {
    claims: Arc<PassportClaims>,
    keys_generation: u64,
}

// === impl Memory ===

impl Memory {
    /// How many passports are remembered at most.
    #[cfg(test)]
    pub(crate) const ENTRIES_MAX: usize = SHARDS * SHARD_ENTRIES_MAX;

    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), shard_of: RandomState::new() }
    }

    /// The claims, if this passport was verified with keys that still hold, and is still good at `now`.
    pub(crate) fn get(&self, digest: &Digest, keys_generation: u64, now: UnixTime) -> Option<Arc<PassportClaims>> {
        let shard = self.shard(digest).read();
        let remembered = shard.get(digest)?;
        let good =
            remembered.keys_generation == keys_generation && token::check_time(remembered.claims.as_ref(), now).is_ok();
        good.then(|| Arc::clone(&remembered.claims))
    }

    /// Remembers a passport that was just verified. A full shard forgets what has expired, else what expires first.
    pub(crate) fn insert(&self, digest: Digest, keys_generation: u64, claims: Arc<PassportClaims>, now: UnixTime) {
        let mut shard = self.shard(&digest).write();
        if shard.len() >= SHARD_ENTRIES_MAX {
            shard.retain(|_, remembered| token::check_time(remembered.claims.as_ref(), now).is_ok());
        }
        if shard.len() >= SHARD_ENTRIES_MAX {
            let first = shard.iter().min_by_key(|(_, remembered)| remembered.claims.exp).map(|(digest, _)| *digest);
            first.and_then(|digest| shard.remove(&digest));
        }
        shard.insert(digest, Remembered { claims, keys_generation });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    #[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "the remainder is a shard's index")]
    fn shard(&self, digest: &Digest) -> &RwLock<HashMap<Digest, Remembered>> {
        &self.shards[self.shard_of.hash_one(digest) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Roles;

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
            iat: exp - 60,
            nbf: exp - 60,
            exp,
        })
    }

    fn digest(number: usize) -> Digest {
        let mut digest = Digest::default();
        digest[..8].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn it_is_bounded_whatever_comes_in() {
        let memory = Memory::new();
        for number in 0..3 * Memory::ENTRIES_MAX {
            memory.insert(digest(number), 0, claims(NOW + 60), NOW);
        }
        assert_eq!(memory.len(), Memory::ENTRIES_MAX);
        let newest = digest(3 * Memory::ENTRIES_MAX - 1);
        assert!(memory.get(&newest, 0, NOW).is_some());
    }

    #[test]
    fn what_has_expired_makes_room_first_and_then_what_expires_first() {
        let memory = Memory::new();
        for number in 0..2 * Memory::ENTRIES_MAX {
            memory.insert(digest(number), 0, claims(NOW), NOW);
        }
        memory.insert(digest(usize::MAX), 0, claims(NOW + 70), NOW + 60);
        let shard_emptied = Memory::ENTRIES_MAX - SHARD_ENTRIES_MAX + 1;
        assert_eq!(memory.len(), shard_emptied, "the full shard forgot all that had expired");

        let memory = Memory::new();
        memory.insert(digest(0), 0, claims(NOW + 1), NOW);
        for number in 1..2 * Memory::ENTRIES_MAX {
            memory.insert(digest(number), 0, claims(NOW + 60), NOW);
        }
        assert!(memory.get(&digest(0), 0, NOW).is_none(), "the first to expire was the first to go");
    }

    #[test]
    fn another_generation_of_keys_knows_nothing() {
        let memory = Memory::new();
        memory.insert(digest(1), 7, claims(NOW + 60), NOW);
        assert!(memory.get(&digest(1), 7, NOW).is_some());
        assert!(memory.get(&digest(1), 8, NOW).is_none());
        assert!(memory.get(&digest(2), 7, NOW).is_none());
    }
}
