use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use age::{
    scrypt,
    secrecy::{ExposeSecret as _, SecretString},
    x25519,
};
use authority::Authority;
use secrets::Secret;
use tempfile::TempDir;

use super::*;

/// The folders of a platform that has started, or of one that never did.
fn folders(root: &Path) -> Folders {
    for name in ["state", "certs"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    Folders { state: root.join("state"), certs: root.join("certs"), unseal_by_people: false }
}

fn started() -> (TempDir, Folders) {
    let root = tempfile::tempdir().unwrap();
    let folders = folders(root.path());
    crate::ensure_secrets(&folders.state.join("steward")).unwrap();
    Authority::open_or_create(&folders.certs, OffsetDateTime::now_utc()).unwrap();
    secrets::replace_file(&folders.certs.join("vault-unseal-key"), b"c2hhcmU=", 0o400, None).unwrap();
    (root, folders)
}

fn empty() -> (TempDir, Folders) {
    let root = tempfile::tempdir().unwrap();
    let folders = folders(root.path());
    (root, folders)
}

fn taken(folders: &Folders) -> Escrow {
    Escrow { made: OffsetDateTime::now_utc(), secrets: folders.read_all().unwrap() }
}

/// Sealed and opened again.
fn through_a_file(escrow: &Escrow) -> Escrow {
    let (identity, key) = identity();
    Escrow::open(&escrow.seal(&identity.to_public()).unwrap(), &key).unwrap()
}

fn identity() -> (x25519::Identity, Secret) {
    let identity = x25519::Identity::generate();
    let key = Secret::new(identity.to_string().expose_secret().as_bytes());
    (identity, key)
}

#[test]
fn a_platform_without_secrets_gets_every_secret_out_of_the_escrow() {
    let (_kept, from) = started();
    let escrow = through_a_file(&taken(&from));
    let (_kept, to) = empty();
    import(&to, &escrow, false).unwrap();
    assert!(faults(&to, &escrow).unwrap().is_empty());
    for (name, mode) in
        [("certs/ca-key.pem", 0o600), ("certs/vault-unseal-key", 0o400), ("state/steward/minio/kms-key", 0o600)]
    {
        let file = |folders: &Folders| folders.certs.parent().unwrap().join(name);
        assert_eq!(fs::read(file(&to)).unwrap(), fs::read(file(&from)).unwrap(), "{name}");
        assert_eq!(fs::metadata(file(&to)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
    // What the steward makes at its start is all there already, and the root is the one of before.
    let count = || walk(&to.state);
    let before = count();
    crate::ensure_secrets(&to.state.join("steward")).unwrap();
    assert_eq!(count(), before);
    Authority::open_or_create(&to.certs, OffsetDateTime::now_utc()).unwrap();
    assert!(faults(&to, &escrow).unwrap().is_empty());
    // A second time there is nothing left to do, and an import that was cut off goes on.
    import(&to, &escrow, false).unwrap();
    fs::remove_file(to.certs.join("ca-key.pem")).unwrap();
    import(&to, &escrow, false).unwrap();
    assert!(faults(&to, &escrow).unwrap().is_empty());
}

fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

#[test]
fn secrets_that_are_there_are_never_replaced() {
    let (_kept, from) = started();
    let (_kept, other) = started();
    let key = other.certs.join("ca-key.pem");
    let before = fs::read(&key).unwrap();
    // One that is missing is not written either.
    fs::remove_file(other.state.join("steward/minio/kms-key")).unwrap();
    let refused = import(&other, &taken(&from), false).unwrap_err().to_string();
    assert!(refused.contains("certs/ca-key.pem") && refused.contains("nothing was written"), "{refused}");
    assert_eq!(fs::read(&key).unwrap(), before);
    assert!(!other.state.join("steward/minio/kms-key").exists());
}

#[test]
fn what_is_missing_or_another_is_named() {
    let (_kept, platform) = started();
    let mut escrow = through_a_file(&taken(&platform));
    assert!(faults(&platform, &escrow).unwrap().is_empty());
    escrow.secrets.remove("state-steward/postgres/archive-passphrase").unwrap();
    escrow.secrets.insert("state-steward/minio/kms-key".to_owned(), Secret::new("rampart:other"));
    fs::remove_file(platform.certs.join("ca-key.pem")).unwrap();
    let faults = faults(&platform, &escrow).unwrap();
    let said = |start: &str| faults.iter().any(|fault| fault.starts_with(start));
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(said("state-steward/postgres/archive-passphrase is missing"), "{faults:?}");
    assert!(said("state-steward/minio/kms-key is another"), "{faults:?}");
    assert!(said("certs/ca-key.pem is in the escrow"), "{faults:?}");
}

#[test]
fn an_escrow_with_less_than_the_list_is_made_and_taken_only_when_asked_for() {
    let (_kept, from) = started();
    let mut escrow = taken(&from);
    fs::remove_file(from.certs.join("vault-unseal-key")).unwrap();
    let refused = from.read_all().unwrap_err().to_string();
    assert!(refused.contains("vault-unseal-key"), "{refused}");
    let strict = Folders { unseal_by_people: true, ..from };
    assert!(strict.read_all().is_ok(), "people have the shares");

    escrow.secrets.remove("state-steward/minio/kms-key").unwrap();
    let (_kept, to) = empty();
    let refused = import(&to, &escrow, false).unwrap_err().to_string();
    assert!(refused.contains("minio/kms-key"), "{refused}");
    assert_eq!(walk(&to.state), 0);
    import(&to, &escrow, true).unwrap();
    assert!(!to.state.join("steward/minio/kms-key").exists() && to.certs.join("ca-key.pem").exists());
}

#[test]
fn names_that_are_not_on_the_list_are_written_nowhere() {
    let (_kept, from) = started();
    let mut escrow = taken(&from);
    escrow.secrets.insert("certs/other".to_owned(), Secret::new("x"));
    let (root, to) = empty();
    import(&to, &through_a_file(&escrow), false).unwrap();
    assert_eq!(walk(root.path()), from.places().len());
}

#[test]
fn another_key_or_a_damaged_file_opens_nothing() {
    let (_kept, from) = started();
    let (own, key) = identity();
    let sealed = taken(&from).seal(&own.to_public()).unwrap();
    assert!(Escrow::open(&sealed, &key).is_ok());
    assert!(Escrow::open(&sealed, &identity().1).is_err());
    assert!(Escrow::open(&sealed, &Secret::new("a passphrase of words")).is_err());
    for at in (0..sealed.len()).step_by(sealed.len() / 100) {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        assert!(Escrow::open(&flipped, &key).is_err(), "a bit of byte {at}");
        assert!(Escrow::open(&sealed[..at], &key).is_err(), "cut off at {at}");
    }
}

#[test]
fn a_passphrase_opens_what_it_sealed_and_a_short_one_seals_nothing() {
    let (_kept, from) = started();
    let words = "five random words in a row";
    // The real work factor takes a debug build long.
    let mut recipient = scrypt::Recipient::new(SecretString::from(words.to_owned()));
    recipient.set_work_factor(10);
    let sealed = taken(&from).seal(&recipient).unwrap();
    assert!(Escrow::open(&sealed, &Secret::new(words)).is_ok());
    assert!(Escrow::open(&sealed, &Secret::new("five other words in a row")).is_err());
    assert!(sealed::passphrase(&Secret::new("fifteen letters")).is_err());
}
