//! `rampart-backup verify`: the proof without a worker.

use std::{fs, process::Command};

use time::macros::datetime;

use crate::support::{Ground, make};

/// Proves exit code and words for VALID, INVALID and what cannot be tried, with keys as stock tools write them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_is_proved_by_command_line() {
    let ground = Ground::new().await;
    let name = make(&ground.maker(), None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let public = Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(ground.path("signing-key.pem"))
        .arg("-out")
        .arg(ground.path("public.pem"))
        .status();
    assert!(public.unwrap().success());
    let verify = |set: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rampart-backup"));
        command.arg("verify").arg("--root").arg(ground.root()).args(["--set", set]);
        command.arg("--identity").arg(ground.path("age-identity"));
        command.arg("--public-key").arg(ground.path("public.pem"));
        let output = command.arg("--scratch").arg(ground.path("scratch")).output().unwrap();
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
