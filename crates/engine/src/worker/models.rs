//! The models of one worker by their slots, and how much memory they may hold.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

use ort::session::RunOptions;

use super::{Declared, Verdict, sandbox::Sandbox, wire::LoadFiles};
use crate::{
    fault::{LoadFault, Reason},
    golden::Golden,
    library::Engine,
    session::{Computed, RunFault, Session},
    signature::Signature,
    tensor::Tensor,
};

/// What a worker may hold beyond what it held after loading, at the least: buffers of the allocators.
const SPARE_BYTES_MIN: u64 = 16 << 20;
/// `/proc/self/status` is shorter.
const STATUS_BYTES_MAX: usize = 8 << 10;

/// The models of a worker. A slot is a number that its replica chose.
pub(super) struct Models {
    sessions: BTreeMap<u32, Session>,
    /// None for a thread of the replica, which has one model from its start.
    loading: Option<Loading>,
}

/// What a process needs to load models.
pub(super) struct Loading {
    pub(super) engine: Engine,
    pub(super) golden_required: bool,
    pub(super) sandbox: Sandbox,
    pub(super) memory: ProcessMemory,
}

/// What this process holds, by files that were opened while that was allowed.
pub(super) struct ProcessMemory {
    /// proc_pid_statm(5), for after each large call.
    statm: File,
    /// proc_pid_status(5), for after each load.
    status: File,
    page_bytes: u64,
    /// What it may hold between two calls.
    bytes_max: Option<u64>,
}

/// What `/proc/self/status` says, in bytes.
struct Status {
    /// Of its own: files that it shares with others do not count.
    own: u64,
    resident: u64,
    resident_peak: u64,
}

// === impl Models ===

impl Models {
    /// A process, which has no model yet.
    pub(super) fn of_process(loading: Loading) -> Self {
        Self { sessions: BTreeMap::new(), loading: Some(loading) }
    }

    /// A thread with its one model.
    pub(super) fn of_thread(slot: u32, session: Session) -> Self {
        Self { sessions: BTreeMap::from([(slot, session)]), loading: None }
    }

    pub(super) fn run(
        &mut self,
        slot: u32,
        inputs: &[Tensor],
        wanted: &[usize],
        options: &RunOptions,
    ) -> Result<Computed, RunFault> {
        let session = self.sessions.get_mut(&slot);
        session
            .ok_or_else(|| RunFault::Engine(format!("there is no model in slot {slot}")))?
            .run(inputs, wanted, options)
    }

    /// Loads a model and judges it.
    pub(super) fn load(&mut self, slot: u32, files: &LoadFiles, options: &RunOptions) -> Verdict {
        let Some(loading) = &mut self.loading else {
            return Verdict::from(LoadFault::internal("a thread loads no further model"));
        };
        match loading.load(files, options) {
            Ok((session, verdict)) => {
                self.sessions.insert(slot, session);
                verdict
            }
            Err(fault) => Verdict::from(fault),
        }
    }

    pub(super) fn unload(&mut self, slot: u32) {
        let session = self.sessions.remove(&slot);
        let was_there = session.is_some();
        drop(session);
        if let Some(loading) = &mut self.loading
            && was_there
        {
            loading.memory.set_mark();
        }
    }

    /// Whether more memory is held than after the last load.
    pub(super) fn hold_too_much(&self) -> bool {
        self.loading.as_ref().is_some_and(|loading| loading.memory.is_over_mark())
    }
}

// === impl Loading ===

impl Loading {
    fn load(&mut self, files: &LoadFiles, options: &RunOptions) -> Result<(Session, Verdict), LoadFault> {
        let before = self.memory.status()?;
        let declared: Declared = serde_json::from_slice(&files.declared).map_err(LoadFault::internal)?;
        let mut session = Session::new(&self.engine, files.model.clone(), &files.data)?;
        let signature = session.check_signature(&declared.signature)?;
        if declared.has_golden {
            compare(&mut session, &files.golden, &signature, options)?;
        } else if self.golden_required {
            return Err(LoadFault::new(
                Reason::Golden,
                "golden.json: is missing, and each version needs one (probe.golden_required)",
            ));
        }
        let after = self.memory.status()?;
        self.memory.set_mark();
        let (process_bytes, model_bytes) = (after.own_at_peak(), after.grown_since(&before));
        Ok((session, Verdict::Accepted { process_bytes, model_bytes, signature, sandbox: self.sandbox }))
    }
}

fn compare(session: &mut Session, golden: &[u8], signature: &Signature, options: &RunOptions) -> Result<(), LoadFault> {
    let golden = Golden::parse(golden, signature)?;
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let failed = |fault: RunFault| LoadFault::new(Reason::Golden, format!("golden.json: {fault}"));
    let computed = session.run(&golden.inputs, &wanted, options).map_err(failed)?;
    golden.compare(signature, &computed.outputs)
}

// === impl ProcessMemory ===

impl ProcessMemory {
    pub(super) fn open() -> io::Result<Self> {
        let (statm, status) = (File::open("/proc/self/statm")?, File::open("/proc/self/status")?);
        Ok(Self { statm, status, page_bytes: rustix::param::page_size() as u64, bytes_max: None })
    }

    /// From here on what is held now may be held, and a quarter more, or [`SPARE_BYTES_MIN`] more if that is larger.
    fn set_mark(&mut self) {
        self.bytes_max = self.resident().map(|now| now + (now / 4).max(SPARE_BYTES_MIN));
    }

    fn is_over_mark(&self) -> bool {
        self.bytes_max.is_some_and(|bytes_max| self.resident().is_some_and(|resident| resident > bytes_max))
    }

    fn resident(&self) -> Option<u64> {
        let mut text = [0; 128];
        let length = self.statm.read_at(&mut text, 0).ok()?;
        let pages: u64 = std::str::from_utf8(text.get(..length)?).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(pages * self.page_bytes)
    }

    fn status(&self) -> Result<Status, LoadFault> {
        let mut text = [0; STATUS_BYTES_MAX];
        let length = self.status.read_at(&mut text, 0).map_err(LoadFault::internal)?;
        let status = text.get(..length).and_then(|text| Status::parse(&String::from_utf8_lossy(text)));
        status.ok_or_else(|| LoadFault::internal("the memory of the process is not known"))
    }
}

// === impl Status ===

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let bytes = |line: &str| {
            let kib =
                text.lines().find_map(|each| each.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kib.map(|kib| kib << 10)
        };
        Some(Self { own: bytes("RssAnon:")?, resident: bytes("VmRSS:")?, resident_peak: bytes("VmHWM:")? })
    }

    fn own_at_peak(&self) -> u64 {
        self.own + self.resident_peak.saturating_sub(self.resident)
    }

    /// What a load took at its peak. A peak from before it says nothing of it.
    fn grown_since(&self, before: &Self) -> u64 {
        let at_peak = if self.resident_peak > before.resident_peak { self.own_at_peak() } else { self.own };
        at_peak.saturating_sub(before.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: u64, resident: u64, resident_peak: u64) -> Status {
        let text = format!("Name:\tx\nVmHWM:\t  {resident_peak} kB\nVmRSS:\t{resident} kB\nRssAnon:\t {own} kB\n");
        Status::parse(&text).unwrap()
    }

    /// The peak of an earlier call is not the memory of a model that is loaded after it.
    #[test]
    fn a_load_takes_what_the_process_grows_by() {
        assert_eq!(status(30, 50, 90).own_at_peak(), 70 << 10);
        assert_eq!(status(30, 50, 90).grown_since(&status(10, 30, 30)), 60 << 10);
        assert_eq!(status(30, 50, 90).grown_since(&status(10, 30, 90)), 20 << 10);
        assert_eq!(status(10, 30, 90).grown_since(&status(30, 50, 90)), 0);
        assert!(Status::parse("VmRSS:\t1 kB\n").is_none());
    }
}
