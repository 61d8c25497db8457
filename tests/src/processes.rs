//! Processes and their children, out of `/proc`.

use std::fs;

/// A process, told apart from a later one with the same id by when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    started: String,
    /// What it is, as the kernel says it.
    pub name: String,
}

struct Stat {
    process: Process,
    parent: u32,
    is_dead: bool,
}

/// Every process below `root`, at any depth.
pub fn descendants(root: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<Stat> = ids.filter_map(stat).collect();
    let mut family = vec![root];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        let children = all.iter().filter(|stat| stat.parent == parent && !stat.is_dead);
        for child in children {
            family.push(child.process.id);
            found.push(child.process.clone());
        }
    }
    found
}

// === impl Process ===

impl Process {
    /// Whether it still runs. A zombie does not: it only waits until its parent asks how it ended.
    pub fn is_running(&self) -> bool {
        stat(self.id).is_some_and(|stat| stat.process == *self && !stat.is_dead)
    }
}

/// proc_pid_stat(5): id, name in parentheses, state, parent, …, and the start time as the 22nd.
fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.to_owned();
    let is_dead = matches!(state, "Z" | "X");
    Some(Stat { process: Process { id, started, name: name.to_owned() }, parent, is_dead })
}
