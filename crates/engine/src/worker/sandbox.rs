//! What a worker may ask of the kernel from here on: to compute, and to use the two sockets that it has.
//!
//! A model is native code that computes what strangers send. If it is taken over, there is nothing to read (landlock: system
//! libraries and locales only), no one to talk to and nothing to start (seccomp: no sockets, no processes, no threads).
//! Where the kernel lacks one of both, the worker goes on without it and says so.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

/// Where libraries and locales are. ONNX Runtime opens some of them late.
const READABLE: [&str; 5] = ["/usr", "/lib", "/lib64", "/sys/devices/system/cpu", "/proc/cpuinfo"];

/// Where glibc looks for locales instead of in its own place, locale(7). Models that normalise text need that of their language.
pub(super) const LOCALES_VARIABLE: &str = "LOCPATH";

/// The system calls of a computation. Everything else fails as if the kernel did not know it.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_ppoll,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The forms of the same calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[i64] = &[];

/// What holds a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sandbox {
    /// Its files are bounded.
    pub(crate) landlock: bool,
    /// Its system calls are bounded.
    pub(crate) seccomp: bool,
}

/// Bounds the files of this thread and of those that it starts to system libraries and this one. Whether the kernel could.
pub(super) fn restrict_files(library: &Path) -> Result<bool, landlock::RulesetError> {
    let abi = ABI::V6;
    let locales = std::env::var_os(LOCALES_VARIABLE).map(PathBuf::from);
    let readable = READABLE.iter().map(Path::new).chain([library]).chain(locales.as_deref());
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(abi)))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Bounds the system calls of this whole process. Whether the kernel could.
pub(super) fn restrict_system_calls() -> Result<bool, seccompiler::BackendError> {
    // The filter is sound by construction, so what fails is the kernel.
    Ok(seccompiler::apply_filter_all_threads(&filter()?).is_ok())
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_OLD).map(|call| (*call, Vec::new())).collect();
    // An abort signals this process; no other may be signalled.
    let own = u64::from(std::process::id());
    let of_own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![of_own])?]);
    // Other commands have the kernel send signals to any process of the same user.
    let command = |command: i32| {
        let condition =
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(command.unsigned_abs()))?;
        SeccompRule::new(vec![condition])
    };
    let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC].map(command);
    rules.insert(libc::SYS_fcntl, commands.into_iter().collect::<Result<_, _>>()?);
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, unknown, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::{fs, io, net::TcpListener, os::unix::net::UnixStream, process::Command, thread};

    use super::*;

    /// On a thread of its own: what is given up does not come back.
    #[test]
    fn a_sandboxed_thread_reaches_no_file_and_no_network() {
        let secret = std::env::current_exe().unwrap();
        let sandboxed = thread::spawn(move || {
            assert!(restrict_files(Path::new("/usr/lib")).unwrap(), "this kernel has landlock");
            let denied = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            denied(fs::read(&secret).unwrap_err());
            denied(fs::read("/etc/passwd").unwrap_err());
            denied(fs::read("/proc/self/environ").unwrap_err());
            denied(fs::write("/tmp/written-by-a-model", "").unwrap_err());
            assert!(fs::read_dir("/usr").is_ok());

            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let unknown = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{error}");
            unknown(TcpListener::bind("127.0.0.1:0").unwrap_err());
            unknown(UnixStream::pair().unwrap_err());
            unknown(thread::Builder::new().spawn(|| {}).unwrap_err());
            assert!(Command::new("/usr/bin/true").spawn().is_err());
            unknown(fs::remove_file("/usr/written-by-a-model").unwrap_err());
            assert!(fs::read_dir("/usr").is_ok());
        });
        sandboxed.join().unwrap();
    }
}
