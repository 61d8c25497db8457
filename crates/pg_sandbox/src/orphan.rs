//! Servers whose owner was killed.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{SOCKETS_FILE, sockets};

const POLLS_MAX: u32 = 100;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Ends the server that still works in a cluster's directory, and removes the directory of its socket. The caller knows that
/// the cluster's owner is gone; that the process is the cluster's server is checked here.
///
/// Blocks until the server has ended, two seconds at most.
pub fn end_orphan(directory: &Path) {
    end_server(&directory.join("data"));
    sockets::remove_named_in(&directory.join(SOCKETS_FILE));
}

fn end_server(data: &Path) {
    let Ok(data) = fs::canonicalize(data) else { return };
    let Ok(lock) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    // The first line is the process. Of initdb's own server the number is negative.
    let server = lock.lines().next().and_then(|line| line.trim().parse().ok()).filter(|process: &i32| *process > 0);
    if let Some(server) = server.and_then(Pid::from_raw) {
        end(server, || is_server_of(server, &data));
    }
}

/// SIGQUIT is an immediate shutdown that takes the backends along; a frozen server needs waking for it.
pub(crate) fn end(server: Pid, mut is_alive: impl FnMut() -> bool) {
    for signal in [Signal::QUIT, Signal::CONT] {
        if is_alive() {
            let _ended = kill_process(server, signal);
        }
    }
    for _ in 0..POLLS_MAX {
        if !is_alive() {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let _ended = kill_process(server, Signal::KILL);
}

/// A process id may belong to another process by now.
fn is_server_of(server: Pid, data: &Path) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", server.as_raw_nonzero())).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0).map(|bytes| PathBuf::from(std::ffi::OsStr::from_bytes(bytes)));
    arguments.any(|argument| fs::canonicalize(argument).is_ok_and(|path| path == data))
}
