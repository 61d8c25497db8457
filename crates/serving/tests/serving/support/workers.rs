//! The processes of a replica's models, as the kernel shows them.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::Serving;

/// A process that computes a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerProcess(i32);

impl Serving {
    /// The processes of its models.
    pub(crate) fn workers(&self) -> Vec<WorkerProcess> {
        children(self.child.id().cast_signed())
    }

    /// Waits until there are so many.
    pub(crate) async fn until_workers(&self, count: usize) -> Vec<WorkerProcess> {
        testkit::poll_until(&format!("{count} workers"), Duration::from_secs(20), async || {
            self.workers().len() == count
        })
        .await;
        self.workers()
    }

    /// Resident memory of the replica and of its workers together, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let own = WorkerProcess(self.child.id().cast_signed());
        self.workers().iter().chain([&own]).map(|process| process.resident_bytes()).sum()
    }
}

impl WorkerProcess {
    pub(crate) fn kill(self, signal: Signal) {
        kill_process(Pid::from_raw(self.0).unwrap(), signal).unwrap();
    }

    pub(crate) fn is_alive(self) -> bool {
        fs::read_to_string(self.path("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Where the kernel shows something of it.
    pub(crate) fn path(self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0)
    }

    /// A file of what the kernel says of it.
    pub(crate) fn file(self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// A value of its status.
    pub(crate) fn status(self, line: &str) -> String {
        self.file("status").lines().find_map(|each| each.strip_prefix(line)).unwrap_or_default().trim().to_owned()
    }

    pub(crate) fn resident_bytes(self) -> u64 {
        self.status("VmRSS:").trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib << 10)
    }
}

fn children(parent: i32) -> Vec<WorkerProcess> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let process = WorkerProcess(*pid);
        process.is_alive()
            && process.status("PPid:") == parent.to_string()
            && process.file("cmdline").contains("model-worker")
    };
    numbers.filter(is_child).map(WorkerProcess).collect()
}
