//! Proves the command line's promise: a set is VALID only after it was restored, and one flipped bit makes it INVALID.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use end_to_end::platform::Platform;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_valid_once_restored_and_one_flipped_bit_makes_it_invalid() {
    let platform = Platform::start(&[]).unwrap();
    let made = platform.backup(&["create"], "operator").unwrap();
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap().trim().to_owned();

    let verified = platform.backup(&["verify", &set], "operator").unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).starts_with("VALID"), "{verified:?}");

    let backups = platform.state().data.join("backups");
    let largest = files(&backups).into_iter().max_by_key(|(size, _)| *size).unwrap().1;
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let verified = platform.backup(&["verify", &set], "operator").unwrap();
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let verdict = String::from_utf8_lossy(&verified.stdout);
    let damaged = largest.file_name().unwrap().to_str().unwrap();
    assert!(verdict.starts_with("INVALID") && verdict.contains(damaged), "{damaged} was damaged: {verdict}");

    let denied = platform.backup(&["create"], "analyst").unwrap();
    assert_eq!(denied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("403"), "{denied:?}");

    // A damaged set is logged as an ERROR.
    platform.stop(&["backup set verified, INVALID"]).unwrap();
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
