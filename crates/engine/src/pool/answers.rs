//! Reads what a worker says, for as long as it lives.

use std::sync::Weak;

use super::Shared;
use crate::worker::{Answers, Lost, Pending, Said};

/// Gives each call its answer, and the worker to the next one. The worker has this number in its pool.
pub(super) async fn read_answers(pool: Weak<Shared>, number: u64, mut answers: Answers) {
    loop {
        let said = answers.next().await;
        let shared = pool.upgrade();
        match said {
            Said::Answer(pending, message) => {
                if let Some(shared) = shared {
                    // First, so that the next call is on its way while this answer is read.
                    shared.give_back(number, message.is_over_mark());
                }
                pending.tell(Ok(message));
            }
            Said::Ended(lost) => {
                if let Some(shared) = &shared {
                    shared.workers.remove(number);
                    shared.blame_first(&lost);
                }
                return tell_all(lost);
            }
            Said::Stuck(lost) => {
                if let Some(shared) = &shared {
                    shared.workers.remove(number);
                    shared.record_stuck(lost.first().and_then(|(pending, _)| pending.caller.as_deref()));
                }
                return tell_all(lost);
            }
        }
    }
}

/// Before they are told: those that come again find the worker removed and its caller kept away.
pub(super) fn tell_all(lost: Vec<(Pending, Lost)>) {
    lost.into_iter().for_each(|(pending, fate)| pending.tell(Err(fate)));
}

impl Shared {
    /// Leaving in time spares no caller whose call ended the worker.
    fn blame_first(&self, lost: &[(Pending, Lost)]) {
        if let Some((Pending { caller: Some(caller), .. }, Lost::Died(exit))) = lost.first() {
            self.blame(caller, &exit.to_string());
        }
    }
}
