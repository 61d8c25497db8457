//! `rampart-backup verify`: verification without a worker.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::poll_until;
use time::macros::datetime;

use crate::support::{TestSite, build, is_gone};

/// Proves exit code and output for VALID, INVALID and no verdict, with keys as stock tools write them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_verified_by_command_line() {
    let site = TestSite::new().await;
    let name = build(&site.builder(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let verify = |set: &str| {
        let output = site.verify_command(set).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(verify(&name.to_string()), (Some(0), "VALID\n".to_owned()));
    assert_eq!(verify("no set").0, Some(2));
    assert_eq!(verify("ml-data-2026-11-23").0, Some(1));

    let object = name.directory(&site.root()).join("models.tar.zst.age");
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let (code, said) = verify(&name.to_string());
    assert_eq!(code, Some(1));
    assert!(said.starts_with("INVALID\nmodels.tar.zst.age: "), "{said}");
    assert!(site.scratch_is_empty());
}

/// Proves that a verification ended by a signal leaves no server and no plaintext, and reports that there is no verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_verification_leaves_nothing() {
    let site = TestSite::new().await;
    let name = build(&site.builder(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    for (signal, reason) in [(Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP"), (Signal::INT, "interrupted")] {
        let mut verification = Verification::start(&site, &name.to_string()).await;
        kill_process(Pid::from_child(&verification.child), signal).unwrap();
        assert_eq!(verification.child.wait().unwrap().code(), Some(2), "{signal:?}");
        let said = io::read_to_string(verification.child.stderr.take().unwrap()).unwrap();
        assert!(said.contains(reason), "{said}");
        assert!(site.scratch_is_empty(), "{signal:?}");
        assert!(verification.server_is_gone() && !verification.sockets.exists(), "{signal:?}");
    }
}

/// Proves that the server does not outlive a verification that was killed, and that the next one removes what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_verification_is_cleaned_up_by_the_next() {
    let site = TestSite::new().await;
    let name = build(&site.builder(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name.to_string();
    let mut verification = Verification::start(&site, &name).await;
    verification.child.kill().unwrap();
    verification.child.wait().unwrap();
    poll_until("the server follows its owner", Duration::from_secs(10), async || verification.server_is_gone()).await;
    assert!(!site.scratch_is_empty() && verification.sockets.exists(), "kill -9 cleans nothing up");
    let output = site.verify_command(&name).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(site.scratch_is_empty() && !verification.sockets.exists());
}

/// A verification whose scratch server is frozen, so that it runs until it is ended.
struct Verification {
    child: Child,
    server: Pid,
    sockets: PathBuf,
}

impl Verification {
    async fn start(site: &TestSite, set: &str) -> Self {
        let child = site.verify_command(set).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (server, sockets) = site.freeze_scratch_server().await;
        Self { child, server, sockets }
    }

    fn server_is_gone(&self) -> bool {
        is_gone(self.server)
    }
}

/// Proves that a valid set that does not fit on the scratch disk gets no verdict. The full disk is a limit of the size
/// of a file: the server gets the same error from the kernel, without a mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_scratch_disk_gives_no_verdict() {
    let site = TestSite::new().await;
    let rows = "INSERT INTO gateway.users SELECT n, repeat('x', 1000) FROM generate_series(10000, 40000) AS n";
    site.postgres.sql(&site.database.name, rows).await;
    let name = build(&site.builder(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name.to_string();
    let verify = site.verify_command(&name);
    // More than a segment of the server's log (16 MiB), less than the table.
    let output = Command::new("prlimit")
        .arg(format!("--fsize={}", 18 << 20))
        .arg(verify.get_program())
        .args(verify.get_args())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("for want of room") && said.contains("File too large"), "{said}");
    assert!(site.scratch_is_empty());
}

/// Proves that the signature is one that OpenSSL verifies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signature_is_verified_by_openssl() {
    let site = TestSite::new().await;
    let name = build(&site.builder(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let directory = name.directory(&site.root());
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-inkey"])
        .arg(site.path("signing-key.pem"))
        .arg("-in")
        .arg(directory.join("manifest.json"))
        .arg("-sigfile")
        .arg(directory.join("manifest.sig"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
