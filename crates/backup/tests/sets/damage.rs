//! One bit, one row, one file, one link of the chain that differs makes a set INVALID.

use std::fs;

use backup::{
    manifest::{Content, MANIFEST_FILE, Manifest, SIGNATURE_FILE},
    progress::Progress,
    run::Verdict,
};
use sha256::Sha256Digest;
use time::macros::datetime;

use crate::support::{CANARY, TestSite, build, files, reasons};

/// Proves that a set is VALID after a restore, that nothing of it is in the clear, and that every kind of damage to it is
/// INVALID: at least 20 bit flips over all files, truncation, growth, a file missing, too many, swapped or older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_is_invalid() {
    let site = TestSite::new().await;
    let builder = site.builder();
    let older = build(&builder, None, datetime!(2026-11-21 02:00 UTC)).await.unwrap().link;
    site.postgres.sql(&site.database.name, "INSERT INTO gateway.users VALUES (0, 'one more')").await;
    let built = build(&builder, None, datetime!(2026-11-22 02:00 UTC)).await.unwrap();
    let name = built.link.name;
    assert_eq!(name.to_string(), "ml-data-2026-11-22");
    assert_eq!(site.verify(&older.name).await, Verdict::Valid);
    let recorded = Some(built.link.manifest_sha256);
    assert_eq!(site.verifier().verify(&name, recorded, &Progress::default()).await.unwrap(), Verdict::Valid);
    assert!(site.scratch_is_empty());

    let directory = name.directory(&site.root());
    let set = files(&directory);
    assert_eq!(set.len(), 4);
    for file in &set {
        let bytes = fs::read(file).unwrap();
        let is_clear = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!is_clear, "{}", file.display());
    }

    // A fixed generator, so that a failure can be repeated: xorshift64.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for file in &set {
        let whole = fs::read(file).unwrap();
        for _ in 0..10 {
            let (byte, bit) = (random(whole.len()), random(8));
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            fs::write(file, flipped).unwrap();
            assert!(!reasons(site.verify(&name).await).is_empty(), "{}: byte {byte}, bit {bit}", file.display());
        }
        for damaged in [&whole[..whole.len() - 1], &[], &[&whole[..], b"\0"].concat()] {
            fs::write(file, damaged).unwrap();
            reasons(site.verify(&name).await);
        }
        fs::remove_file(file).unwrap();
        reasons(site.verify(&name).await);
        let from_older = older.name.directory(&site.root()).join(file.file_name().unwrap());
        fs::copy(&from_older, file).unwrap();
        reasons(site.verify(&name).await);
        fs::write(file, &whole).unwrap();
    }
    assert_eq!(site.verify(&name).await, Verdict::Valid, "all damage was undone");

    fs::write(directory.join("unexpected"), b"").unwrap();
    assert!(reasons(site.verify(&name).await).contains("unexpected: not in the manifest"));
    fs::remove_file(directory.join("unexpected")).unwrap();
    // The two objects, each under the other's name.
    let (one, two) = (&set[0], &set[3]);
    let (first, second) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    fs::write(one, &second).unwrap();
    fs::write(two, &first).unwrap();
    reasons(site.verify(&name).await);
    fs::write(one, &first).unwrap();
    fs::write(two, &second).unwrap();
    let other = Some(Sha256Digest::of(b"another manifest"));
    assert!(reasons(site.verifier().verify(&name, other, &Progress::default()).await.unwrap()).contains("recorded"));
}

/// Proves that a set is valid only after the set before it, and under its own name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_invalid_when_its_chain_is() {
    let site = TestSite::new().await;
    let builder = site.builder();
    let one = build(&builder, None, datetime!(2026-11-20 02:00 UTC)).await.unwrap().link;
    let two = build(&builder, None, datetime!(2026-11-21 02:00 UTC)).await.unwrap().link;
    let three = build(&builder, None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link;
    let top = |name: &backup::set_name::SetName| name.top_directory(&site.root());

    // An older set under a newer name.
    fs::rename(top(&three.name), site.path("aside")).unwrap();
    fs::rename(top(&one.name), top(&three.name)).unwrap();
    assert!(reasons(site.verify(&three.name).await).contains("the manifest is that of ml-data-2026-11-20"));
    fs::rename(top(&three.name), top(&one.name)).unwrap();
    fs::rename(site.path("aside"), top(&three.name)).unwrap();
    assert_eq!(site.verify(&three.name).await, Verdict::Valid);

    // The set before it damaged, replaced by a well-signed other one, gone.
    let manifest = two.name.directory(&site.root()).join(MANIFEST_FILE);
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, whole.to_ascii_uppercase()).unwrap();
    assert!(reasons(site.verify(&three.name).await).contains("previous set ml-data-2026-11-21"));
    fs::remove_dir_all(top(&two.name)).unwrap();
    assert!(reasons(site.verify(&three.name).await).contains("previous set ml-data-2026-11-21"));
    // BuiltSet while the third is not there to follow.
    fs::rename(top(&three.name), site.path("aside")).unwrap();
    let again = build(&builder, None, datetime!(2026-11-21 02:00 UTC)).await.unwrap().link;
    assert_eq!(again.name, two.name);
    fs::rename(site.path("aside"), top(&three.name)).unwrap();
    assert!(reasons(site.verify(&three.name).await).contains("not the one that this set follows"));
    assert_eq!(site.verify(&one.name).await, Verdict::Valid);

    // A set that the worker's database has is chained to even when it is gone; verification then misses it.
    let recorded_last = Some((two.clone(), datetime!(2026-11-23 01:00 UTC)));
    let four = build(&builder, recorded_last, datetime!(2026-11-23 02:00 UTC)).await.unwrap().link;
    assert!(four.name.to_string().ends_with("T020000Z"), "the day's name may be in use: {}", four.name);
    assert!(reasons(site.verify(&four.name).await).contains("previous set"));
}

/// Proves that sets made in one second, and after the clock was set back, are each newer than the one before and VALID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_stops_or_goes_back_breaks_no_chain() {
    let site = TestSite::new().await;
    let builder = site.builder();
    let now = datetime!(2026-11-22 02:00 UTC);
    let mut recorded_last = None;
    for (at, name) in [
        (now, "ml-data-2026-11-22"),
        (now, "ml-data-2026-11-22T020001Z"),
        (now - time::Duration::DAY, "ml-data-2026-11-22T020002Z"),
        (now + time::Duration::SECOND, "ml-data-2026-11-22T020003Z"),
    ] {
        let built = build(&builder, recorded_last.clone(), at).await.unwrap().link;
        assert_eq!(built.name.to_string(), name);
        assert_eq!(site.verify(&built.name).await, Verdict::Valid, "{name}");
        recorded_last = Some((built, at));
    }
}

/// Proves that the signature alone is not enough: rows and digests that do not come out of the restore are INVALID, even
/// when the owner of the key signed them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_manifest_with_wrong_figures_is_found_by_the_restore() {
    let site = TestSite::new().await;
    let builder = site.builder();
    let name = build(&builder, None, datetime!(2026-11-22 02:00 UTC)).await.unwrap().link.name;
    let directory = name.directory(&site.root());
    let key = site.signing_key();
    let signed = Manifest::read(&directory, &name, &key.verifying_key()).unwrap().manifest;
    let write = |manifest: &Manifest| {
        let (bytes, signature) = manifest.sign(&key);
        fs::write(directory.join(MANIFEST_FILE), bytes).unwrap();
        fs::write(directory.join(SIGNATURE_FILE), signature).unwrap();
    };

    let mut altered = signed.clone();
    for object in &mut altered.objects {
        match &mut object.content {
            Content::Models { files } => files[0].sha256 = Sha256Digest::of(b"another model"),
            Content::Database { rows, .. } => {
                assert_eq!((rows["gateway.users"], rows["gateway.empty"], rows["gateway.Odd \"name"]), (5000, 0, 1));
                rows.insert("gateway.users".to_owned(), 4999);
            }
        }
    }
    write(&altered);
    let found = reasons(site.verify(&name).await);
    assert!(found.contains("is not the file that was archived"), "{found}");
    assert!(found.contains("gateway.users has 5000 rows after the restore, 4999 rows in the dump"), "{found}");

    let mut altered = signed.clone();
    altered.objects.iter_mut().for_each(|object| object.plain_sha256 = Sha256Digest::of(b""));
    write(&altered);
    let found = reasons(site.verify(&name).await);
    assert!(found.contains("than was archived") && found.contains("than was dumped"), "{found}");

    write(&signed);
    assert_eq!(site.verify(&name).await, Verdict::Valid);
    let other_key = backup::verify::Verifier { decryption_key: site.other_decryption_key(), ..site.verifier() };
    let found = reasons(other_key.verify(&name, None, &Progress::default()).await.unwrap());
    assert!(found.contains("cannot be decrypted"), "{found}");
    assert!(site.scratch_is_empty());
}
