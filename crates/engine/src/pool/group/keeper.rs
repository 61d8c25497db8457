//! Keeps a group in a process: starts another for one that has ended, and loads the members into it.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::{sync::Notify, task::JoinHandle, time::timeout_at};

use super::{Group, members::Next};
use crate::{
    fault::LoadFault,
    worker::{Exit, NotLoaded, Process},
};

/// Loads what is missing, one member after the other, for as long as there is the group.
pub(super) async fn keep(group: Weak<Group>, changed: Arc<Notify>) {
    loop {
        let Some(group) = group.upgrade() else { return };
        let next = group.next();
        match next {
            Next::Now(slot) => group.load_again(slot).await,
            Next::At(at) => {
                drop(group);
                // Either way there is something to do.
                drop(timeout_at(at.into(), changed.notified()).await);
            }
            Next::Nothing => {
                drop(group);
                changed.notified().await;
            }
        }
    }
}

/// Waits for the end of a process. The reader of its answers says whose request ended it.
pub(super) async fn watch(group: Weak<Group>, number: u64, process: Process, reader: JoinHandle<Option<u32>>) {
    let crash = process.wait().await;
    let at_fault = reader.await.ok().flatten();
    if let Some(group) = group.upgrade() {
        group.record_exit(number, crash.as_ref(), at_fault);
    }
}

impl Group {
    fn next(&self) -> Next {
        let state = self.state.lock();
        state.members.next(state.not_before)
    }

    async fn load_again(self: &Arc<Self>, slot: u32) {
        let _turn = self.loads.lock().await;
        // The others had their turn: it may have left.
        let Some((files, signature)) = self.state.lock().members.missing(slot) else { return };
        match self.load(&files, &signature, slot).await {
            Ok((number, _)) => {
                let is_member = self.state.lock().members.record_loaded(slot, number);
                if !is_member {
                    self.leave(slot);
                }
            }
            Err(not_loaded) => self.record_failure(slot, not_loaded),
        }
    }

    fn record_failure(&self, slot: u32, not_loaded: NotLoaded) {
        let was_deadly = matches!(not_loaded, NotLoaded::Ended(_));
        let fault = LoadFault::from(not_loaded);
        let (pool, pause) = {
            let mut state = self.state.lock();
            (state.members.pool(slot), state.members.record_failure(slot, was_deadly))
        };
        if let Some(pool) = pool {
            pool.record_failed_start(&fault, pause);
        }
    }

    /// A process has ended; by itself, if it is a crash.
    fn record_exit(&self, number: u64, crash: Option<&Exit>, at_fault: Option<u32>) {
        self.retire(number);
        if let Some(exit) = crash {
            self.state.lock().crashes.count();
            let pool = at_fault.and_then(|slot| self.pool(slot)).or_else(|| self.first_pool());
            if let Some(pool) = pool {
                pool.record_crash(exit);
            }
        }
        let mut state = self.state.lock();
        state.not_before = Some(Instant::now() + state.crashes.delay());
        drop(state);
        self.changed.notify_one();
    }
}
