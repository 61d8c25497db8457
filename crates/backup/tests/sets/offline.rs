//! `rampart-backup verify`: the proof without a worker.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::poll_until;
use time::macros::datetime;

use crate::support::{Ground, make};

/// Proves exit code and words for VALID, INVALID and what cannot be tried, with keys as stock tools write them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_is_proved_by_command_line() {
    let ground = Ground::new().await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let verify = |set: &str| {
        let output = ground.verify_command(set).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(verify(&name.to_string()), (Some(0), "VALID\n".to_owned()));
    assert_eq!(verify("no set").0, Some(2));
    assert_eq!(verify("ml-data-2026-11-23").0, Some(1));

    let object = name.directory(&ground.root()).join("models.tar.zst.age");
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let (code, said) = verify(&name.to_string());
    assert_eq!(code, Some(1));
    assert!(said.starts_with("INVALID\nmodels.tar.zst.age: "), "{said}");
    assert!(ground.scratch_is_empty());
}

/// Proves that a proof which is told to end leaves no server and no plaintext, and says that there is no verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proof_that_is_told_to_end_leaves_nothing() {
    let ground = Ground::new().await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    for (signal, reason) in [(Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP"), (Signal::INT, "interrupted")] {
        let mut proof = Proof::start(&ground, &name.to_string()).await;
        kill_process(Pid::from_child(&proof.child), signal).unwrap();
        assert_eq!(proof.child.wait().unwrap().code(), Some(2), "{signal:?}");
        let said = io::read_to_string(proof.child.stderr.take().unwrap()).unwrap();
        assert!(said.contains(reason), "{said}");
        assert!(ground.scratch_is_empty(), "{signal:?}");
        assert!(proof.server_is_gone() && !proof.sockets.exists(), "{signal:?}");
    }
}

/// Proves that the server does not outlive a proof that was killed, and that the next proof removes what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proof_that_was_killed_is_cleaned_up_by_the_next() {
    let ground = Ground::new().await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name.to_string();
    let mut proof = Proof::start(&ground, &name).await;
    proof.child.kill().unwrap();
    proof.child.wait().unwrap();
    poll_until("the server follows its owner", Duration::from_secs(10), async || proof.server_is_gone()).await;
    assert!(!ground.scratch_is_empty() && proof.sockets.exists(), "kill -9 cleans nothing up");
    let output = ground.verify_command(&name).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(ground.scratch_is_empty() && !proof.sockets.exists());
}

/// A proof whose scratch server is frozen, so that it goes on until it is ended.
struct Proof {
    child: Child,
    server: Pid,
    sockets: PathBuf,
}

impl Proof {
    async fn start(ground: &Ground, set: &str) -> Self {
        let child = ground.verify_command(set).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut found = None;
        poll_until("the scratch server starts", Duration::from_secs(30), async || {
            let mut clusters = fs::read_dir(ground.path("scratch")).unwrap();
            let pid_file = clusters.next().map(|entry| entry.unwrap().path().join("cluster/data/postmaster.pid"));
            let lines = pid_file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
            let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
            found = lines.get(4).map(|sockets| (lines[0].trim().parse::<i32>().unwrap(), PathBuf::from(sockets)));
            // While initdb makes the cluster, the number is that of its own server, and negative. The line of the sockets is
            // empty until the server listens.
            found.as_ref().is_some_and(|(server, sockets)| *server > 0 && !sockets.as_os_str().is_empty())
        })
        .await;
        let (server, sockets) = found.unwrap();
        let server = Pid::from_raw(server).unwrap();
        kill_process(server, Signal::STOP).unwrap();
        Self { child, server, sockets }
    }

    fn server_is_gone(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.server.as_raw_nonzero())).exists()
    }
}

/// Proves that a set which is good but does not fit on the scratch disk has no verdict. The full disk is a limit of the size
/// of a file: the server is told by the kernel in the same way, and nobody needs to mount anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_disk_without_room_is_no_verdict() {
    let ground = Ground::new().await;
    let rows = "INSERT INTO gateway.users SELECT n, repeat('x', 1000) FROM generate_series(10000, 40000) AS n";
    ground.postgres.sql(&ground.database.name, rows).await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name.to_string();
    let verify = ground.verify_command(&name);
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
    assert!(ground.scratch_is_empty());
}

/// Proves that the signature is one that OpenSSL verifies: nobody needs our program for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_is_verified_by_openssl() {
    let ground = Ground::new().await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let directory = name.directory(&ground.root());
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-inkey"])
        .arg(ground.path("signing-key.pem"))
        .arg("-in")
        .arg(directory.join("manifest.json"))
        .arg("-sigfile")
        .arg(directory.join("manifest.sig"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
