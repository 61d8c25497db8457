//! Verifies a set: `VALID` only after everything in it was decrypted, restored and compared.
//!
//! What cannot be tried (no PostgreSQL here, no disk space) is an error and no verdict. Everything else that differs from
//! what was signed is `INVALID`, with every reason that can be found without trusting the set.

mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use pg_sandbox::ClusterError;
use problem::Chain;
use sha256::{Measured, Sha256Digest};

use self::restore::ScratchCluster;
pub(crate) use self::restore::remove_orphaned;

use crate::{
    encrypted_file::{self, DecryptedReader},
    keys::{DecryptionKey, VerifyingKey},
    manifest::{Content, Link, MANIFEST_FILE, Manifest, ManifestError, ModelFile, Object, SIGNATURE_FILE, Verified},
    models_archive,
    pg_program::ProgramError,
    progress::{Phase, Progress},
    run::Verdict,
    set_name::SetName,
};

/// Verifies sets.
#[derive(Clone)]
pub struct Verifier {
    /// The root of all sets.
    pub root: PathBuf,
    /// The key that must have signed the manifests.
    pub verifying_key: VerifyingKey,
    /// Decrypts the objects.
    pub decryption_key: DecryptionKey,
    /// For the cluster that databases are restored into. Plaintext is there for a while: use memory or an encrypted disk.
    pub scratch: PathBuf,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No scratch cluster.
    #[error("cannot run a scratch cluster to restore into")]
    Cluster(#[from] ClusterError),
    /// The scratch cluster does not answer.
    #[error("cannot ask the scratch cluster")]
    Query(#[from] sqlx::Error),
    /// `pg_restore` cannot be run.
    #[error("cannot try the restore")]
    Program(#[from] ProgramError),
    /// The dump may be valid, but there is no disk space for it.
    #[error("cannot restore for want of room below {path}")]
    NoRoom {
        /// The scratch directory.
        path: PathBuf,
        /// What did not fit.
        source: ProgramError,
    },
    /// The scratch directory cannot be used.
    #[error("cannot use the scratch directory {path}")]
    Scratch {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

// === impl Verifier ===

impl Verifier {
    /// Verifies a set. `recorded` is the digest of its manifest, if the worker's database has it.
    ///
    /// Dropping this future leaves nothing behind.
    pub async fn verify(
        &self,
        name: &SetName,
        recorded: Option<Sha256Digest>,
        progress: &Progress,
    ) -> Result<Verdict, VerifyError> {
        let (this, set, counted) = (self.clone(), name.clone(), progress.clone());
        progress.enter(Phase::CheckFiles);
        let checked = tokio::task::spawn_blocking(move || this.check_files(&set, recorded, &counted));
        let manifest = match checked.await.expect("checking files does not panic") {
            Ok(manifest) => manifest,
            Err(reasons) => return Ok(Verdict::Invalid(reasons)),
        };
        // From here on the set is known to be signed and complete: now it may be decrypted.
        progress.enter(Phase::OpenModels);
        let mut reasons = self.open_models(&manifest, progress).await;
        progress.enter(Phase::RestoreDatabases);
        reasons.extend(self.restore_databases(&manifest, progress).await?);
        Ok(if reasons.is_empty() { Verdict::Valid } else { Verdict::Invalid(reasons) })
    }

    /// Signature, chain, and every file against its sum.
    fn check_files(
        &self,
        name: &SetName,
        recorded: Option<Sha256Digest>,
        progress: &Progress,
    ) -> Result<Manifest, Vec<String>> {
        let directory = name.directory(&self.root);
        let Verified { manifest, sha256 } =
            Manifest::read(&directory, name, &self.verifying_key).map_err(|error| vec![Chain(&error).to_string()])?;
        // Every file is read twice: as it is, and decrypted.
        progress.expect(manifest.size().saturating_mul(2));
        let mut reasons = Vec::new();
        if recorded.is_some_and(|recorded| recorded != sha256) {
            reasons.push("the manifest is not the one that was recorded when the set was made".to_owned());
        }
        if let Some(previous) = &manifest.previous {
            reasons.extend(self.check_previous(previous, &manifest).err());
        }
        reasons.extend(unexpected_files(&directory, &manifest));
        for object in &manifest.objects {
            reasons.extend(check_object(&directory, object, progress).err());
        }
        if reasons.is_empty() { Ok(manifest) } else { Err(reasons) }
    }

    fn check_previous(&self, previous: &Link, manifest: &Manifest) -> Result<(), String> {
        let name = &previous.name;
        let read = Manifest::read(&name.directory(&self.root), name, &self.verifying_key);
        let found = read.map_err(|error: ManifestError| format!("previous set {name}: {}", Chain(&error)))?;
        if found.sha256 != previous.manifest_sha256 {
            return Err(format!("previous set {name} is not the one that this set follows"));
        }
        if found.manifest.created_at >= manifest.created_at {
            return Err(format!("previous set {name} is not older than this one"));
        }
        Ok(())
    }

    async fn open_models(&self, manifest: &Manifest, progress: &Progress) -> Vec<String> {
        let mut reasons = Vec::new();
        for object in &manifest.objects {
            let Content::Models { files } = &object.content else { continue };
            let path = manifest.name.directory(&self.root).join(&object.path);
            let (key, plain, files) = (self.decryption_key.clone(), object.plain(), files.clone());
            let counted = progress.clone();
            let decrypted = tokio::task::spawn_blocking(move || compare_models(&path, &key, plain, &files, &counted));
            let found = decrypted.await.expect("reading an archive does not panic");
            reasons.extend(found.into_iter().map(|reason| format!("{}: {reason}", object.path)));
        }
        reasons
    }

    async fn restore_databases(&self, manifest: &Manifest, progress: &Progress) -> Result<Vec<String>, VerifyError> {
        let mut reasons = Vec::new();
        let mut scratch = None;
        for object in &manifest.objects {
            let Content::Database { database, rows, .. } = &object.content else { continue };
            let scratch = match &mut scratch {
                Some(scratch) => scratch,
                none => none.insert(ScratchCluster::start(&self.scratch).await?),
            };
            let path = manifest.name.directory(&self.root).join(&object.path);
            let restored = scratch.restore(database, &path, &self.decryption_key, object.plain(), progress).await?;
            let restored = match restored {
                Ok(()) => differences(rows, &scratch.count_rows(database).await?),
                Err(reason) => vec![reason],
            };
            reasons.extend(restored.into_iter().map(|reason| format!("{}: {reason}", object.path)));
        }
        Ok(reasons)
    }
}

/// Files that the manifest does not have.
fn unexpected_files(directory: &Path, manifest: &Manifest) -> Vec<String> {
    let mut expected: BTreeSet<&str> = manifest.objects.iter().map(|object| object.path.as_str()).collect();
    expected.extend([MANIFEST_FILE, SIGNATURE_FILE]);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("the set cannot be listed: {error}")],
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !expected.contains(name.as_str())).map(|name| format!("{name}: not in the manifest")).collect()
}

fn check_object(directory: &Path, object: &Object, progress: &Progress) -> Result<(), String> {
    let path = directory.join(&object.path);
    let refused = |reason: String| format!("{}: {reason}", object.path);
    // A link would be read as its target, which may change.
    let metadata = fs::symlink_metadata(&path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refused("not a regular file".to_owned()));
    }
    if metadata.len() != object.size {
        return Err(refused(format!("{} bytes, should be {}", metadata.len(), object.size)));
    }
    let found = encrypted_file::measure_file(&path, progress).map_err(|error| refused(error.to_string()))?;
    if found == object.cipher() { Ok(()) } else { Err(refused("its SHA-256 is another".to_owned())) }
}

fn compare_models(
    path: &Path,
    key: &DecryptionKey,
    plain: Measured,
    files: &[ModelFile],
    progress: &Progress,
) -> Vec<String> {
    let read = || {
        let mut decrypted = DecryptedReader::open(path, key, progress)?;
        let found = models_archive::measure(&mut decrypted)?;
        Ok::<_, io::Error>((found, decrypted.finish()?))
    };
    let (mut found, measured) = match read() {
        Ok(read) => read,
        Err(error) => return vec![format!("cannot be decrypted and unpacked: {error}")],
    };
    let mut reasons = Vec::new();
    if measured != plain {
        reasons.push("decrypts to something else than was archived".to_owned());
    }
    for file in files {
        let expected = Measured { size: file.size, sha256: file.sha256 };
        match found.remove(&file.path) {
            Some(unpacked) if unpacked == expected => {}
            Some(_) => reasons.push(format!("{} is not the file that was archived", file.path)),
            None => reasons.push(format!("{} is missing", file.path)),
        }
    }
    reasons.extend(found.into_keys().map(|path| format!("{path} was not archived")));
    reasons
}

fn differences(expected: &BTreeMap<String, i64>, restored: &BTreeMap<String, i64>) -> Vec<String> {
    let tables: BTreeSet<&String> = expected.keys().chain(restored.keys()).collect();
    let differing = tables.into_iter().filter(|table| expected.get(*table) != restored.get(*table));
    let rows = |count: Option<&i64>| count.map_or_else(|| "no table".to_owned(), |rows| format!("{rows} rows"));
    differing
        .map(|table| {
            let (restored, dumped) = (rows(restored.get(table)), rows(expected.get(table)));
            format!("table {table} has {restored} after the restore, {dumped} in the dump")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_tables_is_reported() {
        let rows = |rows: &[(&str, i64)]| rows.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect();
        let same: BTreeMap<_, _> = rows(&[("a.x", 1), ("a.y", 0)]);
        assert!(differences(&same, &same).is_empty());
        assert_eq!(
            differences(&same, &rows(&[("a.x", 2), ("b.z", 5)])),
            [
                "table a.x has 2 rows after the restore, 1 rows in the dump",
                "table a.y has no table after the restore, 0 rows in the dump",
                "table b.z has 5 rows after the restore, no table in the dump",
            ]
        );
    }
}
