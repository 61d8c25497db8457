//! One process for the versions of a replica that are declared `isolation = "group"`.
//!
//! Each of them has a pool of its own, with its queue, its metrics and its name in the quarantine. The worker of the group is in all of
//! these pools, and computes their calls one after the other. A version is proved in a process of its own before it comes into that of the
//! group; the first one's process goes on as the group's.
//!
//! When the process ends, one task (`group/keeper.rs`) starts another and loads every member into it. A call that it had not read goes
//! there by itself; only the one that it computed is lost.
//!
//! Locks: `loads` is held for one load, which `probe.wall_s_max` bounds (and the starts of other processes that it waits for). `state` is
//! taken before a lock of a pool, never after it, and never held over an await.

mod answers;
mod keeper;
mod members;

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::{Shared, backoff::Crashes};
use crate::{
    fault::LoadFault,
    memory::{MemoryBudget, ReservedBytes},
    signature::Signature,
    worker::{EncodedRequest, Loaded, NotLoaded, Started, VersionFiles, Worker, WorkerStarter},
};
use members::{Member, Members, Present};

/// Processes of the group that ended before they had read a load; more than these is a fault of the machine.
const UNREAD_MAX: usize = 3;

/// The versions that share a process, and this process.
pub struct Group {
    starter: WorkerStarter,
    memory: MemoryBudget,
    loads: AsyncMutex<()>,
    state: Mutex<State>,
    /// Said when a member may have to be loaded again.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    members: Members,
    /// What the process takes without a model; as long as there are members.
    base: Option<ReservedBytes>,
    last_slot: u32,
    last_process: u64,
    crashes: Crashes,
    /// No other process is started before.
    not_before: Option<Instant>,
}

/// A version's place in a group. Dropping it takes the version out of the group's process.
pub(super) struct Membership {
    group: Arc<Group>,
    slot: u32,
}

// === impl Group ===

impl Group {
    /// A group without members. Its keeper is a task of the runtime that this is called in.
    pub fn new(starter: WorkerStarter, memory: MemoryBudget) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let (loads, state) = (AsyncMutex::default(), Mutex::default());
        let group = Arc::new(Self { starter, memory, loads, state, changed: Arc::clone(&changed) });
        tokio::spawn(keeper::keep(Arc::downgrade(&group), changed));
        group
    }

    /// The present process, and its number.
    fn present(&self) -> Option<(u64, Arc<Worker>)> {
        let state = self.state.lock();
        state.members.present.as_ref().map(|present| (present.number, Arc::clone(&present.worker)))
    }

    /// Loads a version into the present process, whose number this is, or starts one with it.
    async fn load(
        self: &Arc<Self>,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        slot: u32,
    ) -> Result<(u64, Loaded), NotLoaded> {
        for _ in 0..UNREAD_MAX {
            let Some((number, worker)) = self.present() else {
                let started = self.starter.start(files, signature, slot).await.map_err(NotLoaded::Refused)?;
                return self.adopt(started, files.bytes()).map_err(NotLoaded::Refused);
            };
            match self.starter.load_into(&worker, files, signature, slot).await {
                Err(NotLoaded::Unread) => {
                    worker.wait_for_end().await;
                    self.retire(number);
                }
                loaded => return loaded.map(|loaded| (number, loaded)),
            }
        }
        Err(NotLoaded::Unread)
    }

    /// From here on this is the process of the group. Its number.
    fn adopt(self: &Arc<Self>, started: Started, file_bytes: u64) -> Result<(u64, Loaded), LoadFault> {
        let Started { worker, answers, process, mut loaded } = started;
        let mut state = self.state.lock();
        let base_bytes = match &state.base {
            Some(base) => base.bytes(),
            None => {
                // What the library took when it was first used is of the process, and a model takes about what its file has.
                let base_bytes = loaded.process_bytes.saturating_sub(file_bytes);
                state.base.insert(self.memory.reserve(None, base_bytes, 1)?.memory).bytes()
            }
        };
        loaded.model_bytes = loaded.process_bytes.saturating_sub(base_bytes);
        state.last_process += 1;
        let number = state.last_process;
        state.members.present = Some(Present { number, worker: Arc::new(worker) });
        drop(state);
        let reader = tokio::spawn(answers::read(Arc::downgrade(self), number, answers));
        tokio::spawn(keeper::watch(Arc::downgrade(self), number, process, reader));
        Ok((number, loaded))
    }

    /// No call goes to this process any more; it ends with those that it has. Returns whether it was the present one.
    fn retire(&self, number: u64) -> bool {
        let retired = self.state.lock().members.retire(number);
        retired.is_some()
    }

    /// Takes out a version. Without members there is no process.
    fn leave(&self, slot: u32) {
        let mut state = self.state.lock();
        state.members.remove(slot);
        if state.members.is_empty() {
            let left = (state.members.present.take(), state.base.take());
            drop(state);
            return drop(left);
        }
        let worker = state.members.present.as_ref().map(|present| Arc::clone(&present.worker));
        drop(state);
        if let (Some(worker), Ok(runtime)) = (worker, tokio::runtime::Handle::try_current()) {
            runtime.spawn(unload(worker, slot));
        }
    }

    /// A worker answered a call of this member.
    fn give_back(&self, number: u64, slot: u32, is_over_mark: bool) {
        let state = self.state.lock();
        let pool = state.members.pool(slot);
        if is_over_mark {
            drop(state);
            if self.retire(number)
                && let Some(pool) = pool
            {
                pool.record_over_mark();
            }
        } else if let (Some(pool), Some(seat)) = (pool, state.members.seat(slot, number)) {
            drop(state);
            pool.workers.free(seat);
        }
    }

    /// Where a member is served.
    fn pool(&self, slot: u32) -> Option<Arc<Shared>> {
        self.state.lock().members.pool(slot)
    }

    /// Where the end of a process is counted that no call has ended.
    fn first_pool(&self) -> Option<Arc<Shared>> {
        self.state.lock().members.first_pool()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its keeper sees that it is gone.
        self.changed.notify_one();
    }
}

/// Has a worker drop a model. It does when it has come to it, and a worker that ends has dropped it as well.
async fn unload(worker: Arc<Worker>, slot: u32) {
    if let Ok(mut submitted) = worker.submit(&EncodedRequest::unload(slot), None).await {
        drop(submitted.answer().await);
    }
}

// === impl Membership ===

impl Membership {
    /// A place for a version that is not loaded yet.
    pub(super) fn new(group: &Arc<Group>) -> Self {
        let mut state = group.state.lock();
        state.last_slot = state.last_slot.wrapping_add(1);
        Self { slot: state.last_slot, group: Arc::clone(group) }
    }

    /// Names the version in its worker.
    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    /// Loads a version into the process of the group. The worker that proved it becomes that process where there is none.
    pub(super) async fn join(
        &self,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        proved: Started,
    ) -> Result<Loaded, LoadFault> {
        let Self { group, slot } = self;
        let _turn = group.loads.lock().await;
        let (number, loaded) = if group.present().is_none() {
            group.adopt(proved, files.bytes())?
        } else {
            drop(proved);
            group.load(files, signature, *slot).await.map_err(LoadFault::from)?
        };
        let member = Member::new(Arc::clone(files), signature.clone());
        group.state.lock().members.insert(*slot, member, number);
        // The process may have ended meanwhile, or have none of the others.
        group.changed.notify_one();
        Ok(loaded)
    }

    /// From here on calls of this pool are computed in the process of the group.
    pub(super) fn serve(&self, pool: &Arc<Shared>) {
        self.group.state.lock().members.serve(self.slot, Arc::downgrade(pool));
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.leave(self.slot);
    }
}
