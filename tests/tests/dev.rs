//! Proves that `rampart dev` leaves nothing behind when it is stopped or killed, and keeps the directory of `--data`, whatever that
//! and the temporary directory are called and libpq is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use end_to_end::{
    platform::{Data, Platform, Setup},
    poll::until,
    processes::{Process, descendants},
};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(10);
const DATA: &str = "data";
/// Several platforms at once are so slow on a small machine that they log warnings.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The test's `TMPDIR` is its own, and `stop` looks into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_leaves_no_process_and_no_file() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let platform = Setup { data: Data::Default, ..Setup::default() }.start().unwrap();
    let data = platform.state().data.clone();
    assert!(data.join("secrets").is_dir(), "the folder is where this test looks: {}", data.display());
    let processes = all_processes(&platform);
    platform.stop(&[]).unwrap();
    assert_eq!(running(&processes), Vec::<&Process>::new(), "outlived Ctrl-C");
    assert!(!data.exists(), "{} was left", data.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_outlives_a_killed_supervisor() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let directory = tempfile::Builder::new().prefix("rampart-killed-").tempdir().unwrap();
    let platform = start_in(directory.path());
    let processes = all_processes(&platform);
    let supervisor = Pid::from_raw(i32::try_from(platform.supervisor()).unwrap()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    until("everything ends", PATIENCE, async || {
        ensure!(running(&processes).is_empty(), "still there: {:?}", running(&processes));
        Ok(())
    })
    .await
    .unwrap();
    let sockets = PathBuf::from(fs::read_to_string(directory.path().join(DATA).join("postgres/sockets")).unwrap());
    assert!(sockets.is_dir(), "{} is where PostgreSQL has its socket", sockets.display());
    let again = start_in(directory.path());
    assert!(!sockets.exists(), "{} was left by the process that was killed", sockets.display());
    again.stop(&[]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_directory_survives_a_restart() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let directory = tempfile::Builder::new().prefix("rampart kept, 'here' ").tempdir().unwrap();
    let platform = start_in(directory.path());
    platform.account("made-before", &["viewer"]).await.unwrap();
    let made = platform.backup(&["create"], "operator").unwrap();
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    platform.stop(&[]).unwrap();

    let platform = start_in(directory.path());
    let admin = platform.token("admin").unwrap();
    let (status, users) = platform.front.call(Method::GET, "/api/admin/users", Some(&admin), None).await.unwrap();
    let is_there = users["users"].as_array().unwrap().iter().any(|user| user["name"] == "made-before");
    assert!(is_there, "{status} {users}");
    let verified = platform.backup(&["verify", &set], "operator").unwrap();
    assert!(String::from_utf8_lossy(&verified.stdout).starts_with("VALID"), "{verified:?}");
    platform.stop(&[]).unwrap();
    assert!(directory.path().join(DATA).join("postgres").is_dir(), "it stays after the last stop as well");
}

/// With its data in a folder of this one, and in an environment in which a socket below `TMPDIR` would have no path, and libpq would
/// refuse PostgreSQL.
fn start_in(directory: &Path) -> Platform {
    let temporary = directory.join(format!("tmp,{}", "x".repeat(100)));
    fs::create_dir_all(&temporary).unwrap();
    // PostgreSQL may run under an account of its own.
    for (path, mode) in [(directory, 0o711), (&*temporary, 0o1777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let environment = [
        ("TMPDIR", temporary.to_str().unwrap()),
        ("PGOPTIONS", "-c no_such_setting=1"),
        ("PGCHANNELBINDING", "require"),
        ("PGHOST", "/nowhere"),
    ];
    Setup { data: Data::At(&directory.join(DATA)), environment: &environment, ..Setup::default() }.start().unwrap()
}

/// Seven services, the database and its workers.
fn all_processes(platform: &Platform) -> Vec<Process> {
    let processes = descendants(platform.supervisor());
    let count = |name: &str| processes.iter().filter(|process| process.name.starts_with(name)).count();
    assert!(count("rampart-") >= 7 && count("postgres") >= 2, "{processes:?}");
    processes
}

fn running(processes: &[Process]) -> Vec<&Process> {
    processes.iter().filter(|process| process.is_running()).collect()
}
