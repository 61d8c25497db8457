//! Proves the command line's promise: a set is VALID only after it was restored, and one flipped bit makes it INVALID.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use end_to_end::platform::{Platform, binary};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_valid_once_restored_and_one_flipped_bit_makes_it_invalid() {
    let platform = Platform::start(&[]).unwrap();
    let made = rampart(&platform, &["create"], "operator");
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap().trim().to_owned();

    let verified = rampart(&platform, &["verify", &set], "operator");
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).starts_with("VALID"), "{verified:?}");

    let largest = files(&platform.state().data.join("backups")).into_iter().max_by_key(|(size, _)| *size).unwrap().1;
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let verified = rampart(&platform, &["verify", &set], "operator");
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).starts_with("INVALID"), "{verified:?}");

    let denied = rampart(&platform, &["create"], "analyst");
    assert_eq!(denied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("403"), "{denied:?}");
}

fn rampart(platform: &Platform, arguments: &[&str], role: &str) -> Output {
    let mut command = Command::new(binary("rampart").unwrap());
    command.arg("backup").args(arguments).args(["--front", &platform.state().front]);
    command.arg("--ca-file").arg(&platform.state().ca_file).arg("--token-file").arg(&platform.state().tokens[role]);
    command.output().unwrap()
}

fn files(folder: &Path) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.metadata().unwrap().len(), entry.path()));
        }
    }
    found
}
