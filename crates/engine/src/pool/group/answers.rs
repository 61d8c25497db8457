//! Reads what the process of a group says: for each call to the pool that it is of.

use std::sync::Weak;

use super::{super::answers::tell_all, Group};
use crate::worker::{Answers, Lost, Pending, Said};

/// Gives each call its answer, and its place in the process to the next one of the same version. Returns the slot of the version whose request
/// ended the process, if one did.
pub(super) async fn read(group: Weak<Group>, number: u64, mut answers: Answers) -> Option<u32> {
    loop {
        let said = answers.next().await;
        let group = group.upgrade();
        match said {
            Said::Answer(pending, message) => {
                if let Some(group) = group
                    && pending.caller.is_some()
                {
                    group.give_back(number, pending.slot, message.is_over_mark());
                }
                pending.tell(Ok(message));
            }
            Said::Ended(lost) => {
                let at_fault = group.and_then(|group| group.record_end(number, &lost));
                tell_all(lost);
                return at_fault;
            }
            Said::Stuck(lost) => {
                let at_fault = group.and_then(|group| group.record_stuck(number, &lost));
                tell_all(lost);
                return at_fault;
            }
        }
    }
}

impl Group {
    /// The process has ended, and these requests with it.
    fn record_end(&self, number: u64, lost: &[(Pending, Lost)]) -> Option<u32> {
        self.retire(number);
        let Some((first, Lost::Died(exit))) = lost.first() else { return None };
        if let (Some(pool), Some(caller)) = (self.pool(first.slot), &first.caller) {
            pool.blame(caller, &exit.to_string());
        }
        Some(first.slot)
    }

    /// The process does not give up the first of these requests.
    fn record_stuck(&self, number: u64, lost: &[(Pending, Lost)]) -> Option<u32> {
        let (first, _) = lost.first()?;
        self.state.lock().crashes.count();
        // Before its calls go elsewhere: its worker ends with its last place.
        self.retire(number);
        if let Some(pool) = self.pool(first.slot) {
            pool.record_stuck(first.caller.as_deref());
        } else if let Some(pool) = self.first_pool() {
            pool.record_stuck(None);
        }
        Some(first.slot)
    }
}
