//! Who is in a group, and what of it is in the present process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::super::{
    Shared,
    backoff::{FAILED_STARTS_MAX, Pauses},
};
use crate::{
    signature::Signature,
    worker::{VersionFiles, Worker},
};

/// The members of a group by their slots, and its present process.
#[derive(Default)]
pub(super) struct Members {
    by_slot: BTreeMap<u32, Member>,
    pub(super) present: Option<Present>,
}

/// A process of the group. It ends when its worker is dropped here and in all pools.
pub(super) struct Present {
    pub(super) number: u64,
    pub(super) worker: Arc<Worker>,
}

/// A version in a group.
pub(super) struct Member {
    files: Arc<VersionFiles>,
    signature: Signature,
    pool: Weak<Shared>,
    /// The number of the process that has it.
    process: Option<u64>,
    /// The number of the worker in its pool.
    seat: Option<u64>,
    pauses: Pauses,
    retry_at: Option<Instant>,
    /// Processes of the group that loading it has ended since it was last loaded.
    deadly_loads: u32,
}

/// What is to be loaded into the process of the group.
pub(super) enum Next {
    Now(u32),
    At(Instant),
    Nothing,
}

// === impl Member ===

impl Member {
    pub(super) fn new(files: Arc<VersionFiles>, signature: Signature) -> Self {
        let (process, seat, pauses, retry_at) = (None, None, Pauses::default(), None);
        Self { files, signature, pool: Weak::new(), process, seat, pauses, retry_at, deadly_loads: 0 }
    }

    /// Whether a call waits for it.
    fn is_wanted(&self) -> bool {
        self.pool.upgrade().is_some_and(|pool| pool.workers.is_wanted())
    }

    /// Loading it ends the process of the others each time.
    fn is_given_up(&self) -> bool {
        self.deadly_loads >= FAILED_STARTS_MAX
    }
}

// === impl Members ===

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// Takes in a version that was loaded into the process of this number.
    pub(super) fn insert(&mut self, slot: u32, member: Member, number: u64) {
        self.by_slot.insert(slot, member);
        self.record_loaded(slot, number);
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.by_slot.remove(&slot);
    }

    /// A member was loaded into the process of this number. Returns whether it is still a member.
    pub(super) fn record_loaded(&mut self, slot: u32, number: u64) -> bool {
        let Some(member) = self.by_slot.get_mut(&slot) else { return false };
        if self.present.as_ref().is_some_and(|present| present.number == number) {
            (member.process, member.pauses) = (Some(number), Pauses::default());
            (member.retry_at, member.deadly_loads) = (None, 0);
            self.seat_worker(slot);
        }
        true
    }

    /// A member could not be loaded. When the next attempt is, none if there is no other.
    pub(super) fn record_failure(&mut self, slot: u32, was_deadly: bool) -> Option<Duration> {
        let member = self.by_slot.get_mut(&slot)?;
        member.deadly_loads += u32::from(was_deadly);
        let pause = member.pauses.next();
        member.retry_at = Some(Instant::now() + pause);
        (!member.is_given_up()).then_some(pause)
    }

    /// Has the calls of this pool computed in the process of the group.
    pub(super) fn serve(&mut self, slot: u32, pool: Weak<Shared>) {
        if let Some(member) = self.by_slot.get_mut(&slot) {
            member.pool = pool;
            self.seat_worker(slot);
        }
    }

    /// Gives the present worker to the pool of a member that it has loaded.
    fn seat_worker(&mut self, slot: u32) {
        let (Some(member), Some(present)) = (self.by_slot.get_mut(&slot), &self.present) else { return };
        if member.seat.is_none()
            && member.process == Some(present.number)
            && let Some(pool) = member.pool.upgrade()
        {
            member.seat = Some(pool.seat(Arc::clone(&present.worker)));
        }
    }

    /// Takes a process out of all pools, if it is there still.
    pub(super) fn retire(&mut self, number: u64) -> Option<Present> {
        let retired = self.present.take_if(|present| present.number == number)?;
        for member in self.by_slot.values_mut() {
            member.process = None;
            if let (Some(seat), Some(pool)) = (member.seat.take(), member.pool.upgrade()) {
                pool.workers.remove(seat);
                pool.record_gone();
            }
        }
        Some(retired)
    }

    /// Those that were not tried yet, first if calls wait for them and then in the order in which they came; then those that wait for another
    /// attempt.
    pub(super) fn next(&self, not_before: Option<Instant>) -> Next {
        let missing = self.by_slot.iter().filter(|(_, member)| member.process.is_none() && !member.is_given_up());
        let first = missing.min_by_key(|(_, member)| (member.retry_at, !member.is_wanted()));
        let Some((slot, member)) = first else { return Next::Nothing };
        let starts_at = not_before.filter(|_| self.present.is_none());
        match member.retry_at.max(starts_at) {
            Some(at) if at > Instant::now() => Next::At(at),
            Some(_) | None => Next::Now(*slot),
        }
    }

    /// What is loaded of a member that the present process does not have.
    pub(super) fn missing(&self, slot: u32) -> Option<(Arc<VersionFiles>, Signature)> {
        let member = self.by_slot.get(&slot).filter(|member| member.process.is_none())?;
        Some((Arc::clone(&member.files), member.signature.clone()))
    }

    pub(super) fn pool(&self, slot: u32) -> Option<Arc<Shared>> {
        self.by_slot.get(&slot)?.pool.upgrade()
    }

    pub(super) fn first_pool(&self) -> Option<Arc<Shared>> {
        self.by_slot.values().find_map(|member| member.pool.upgrade())
    }

    /// The place of the process of this number in the pool of a member.
    pub(super) fn seat(&self, slot: u32, number: u64) -> Option<u64> {
        self.by_slot.get(&slot).filter(|member| member.process == Some(number))?.seat
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use sha256::Sha256Digest;

    use super::*;
    use crate::model_file::FileDigests;

    /// Members in these slots, none of them loaded.
    fn members(slots: &[u32]) -> Members {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/models/digits-mlp/1");
        let digest = Sha256Digest::of(&std::fs::read(folder.join("model.onnx")).unwrap());
        let digests = FileDigests { model: digest, data: BTreeMap::new() };
        let files = Arc::new(VersionFiles::open(&folder, digests, 1 << 20).unwrap());
        let mut members = Members::default();
        for slot in slots {
            let signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
            members.insert(*slot, Member::new(Arc::clone(&files), signature), 1);
        }
        members
    }

    fn slot(next: &Next) -> Option<u32> {
        if let Next::Now(slot) = next { Some(*slot) } else { None }
    }

    /// One that failed waits, and the others do not wait for it.
    #[test]
    fn a_member_that_failed_is_tried_after_the_others() {
        let mut members = members(&[1, 2]);
        assert_eq!(slot(&members.next(None)), Some(1));
        assert!(members.record_failure(1, false) < members.record_failure(1, false), "pauses become longer");
        assert_eq!(slot(&members.next(None)), Some(2));
        members.remove(2);
        assert!(matches!(members.next(None), Next::At(_)));
        members.remove(1);
        assert!(members.is_empty() && matches!(members.next(None), Next::Nothing));
    }

    /// After many crashes the next process waits, whichever member is loaded first.
    #[test]
    fn a_start_may_have_to_wait() {
        let members = members(&[1]);
        let later = Instant::now() + Duration::from_secs(60);
        assert!(matches!(members.next(Some(later)), Next::At(at) if at == later));
        assert_eq!(slot(&members.next(Some(Instant::now()))), Some(1));
    }

    /// Its load ends the process of the others: three times, and no more. A refusal does not.
    #[test]
    fn a_member_whose_load_ends_the_process_is_given_up() {
        let mut members = members(&[1]);
        for _ in 0..5 {
            assert!(members.record_failure(1, false).is_some());
        }
        assert!(members.record_failure(1, true).is_some() && members.record_failure(1, true).is_some());
        assert!(members.record_failure(1, true).is_none());
        assert!(matches!(members.next(None), Next::Nothing));
    }
}
