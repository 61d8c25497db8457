//! Proving a set: `VALID` is said only after everything in it was decrypted, restored and compared.
//!
//! What cannot be tried (no PostgreSQL here, no room) is an error and no verdict. Everything else that is not as it was
//! signed is `INVALID`, with every reason that can be found without trusting the set.

mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use pg_sandbox::ClusterError;

use self::restore::Scratch;
pub(crate) use self::restore::sweep;

use crate::{
    digest::{Measured, Sha256},
    keys::{DecryptionKey, VerifyingKey},
    manifest::{Content, Link, MANIFEST_FILE, Manifest, ManifestError, ModelFile, Object, SIGNATURE_FILE, Verified},
    models,
    program::ProgramError,
    run::Verdict,
    sealed::{self, Opened},
    set::SetName,
};

/// Everything that proving a set takes.
#[derive(Clone)]
pub struct Verifier {
    /// Where sets are kept.
    pub root: PathBuf,
    /// Whose signature counts.
    pub verifying_key: VerifyingKey,
    /// Opens the objects.
    pub decryption_key: DecryptionKey,
    /// For the cluster that databases are restored into. Plaintext lies there for a while: use memory or an encrypted disk.
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
    /// The dump may be good, but there is no room for it.
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
    /// Proves a set. `recorded` is what its manifest must be, if somebody outside of the set remembers.
    ///
    /// Giving this future up leaves nothing behind.
    pub async fn verify(&self, name: &SetName, recorded: Option<Sha256>) -> Result<Verdict, VerifyError> {
        let (this, set) = (self.clone(), name.clone());
        let looked = tokio::task::spawn_blocking(move || this.look(&set, recorded));
        let manifest = match looked.await.expect("looking at files does not panic") {
            Ok(manifest) => manifest,
            Err(reasons) => return Ok(Verdict::Invalid(reasons)),
        };
        // From here on it is known who wrote the set and that it is whole: now it may be decrypted.
        let mut reasons = self.open_models(&manifest).await;
        reasons.extend(self.restore_databases(&manifest).await?);
        Ok(if reasons.is_empty() { Verdict::Valid } else { Verdict::Invalid(reasons) })
    }

    /// Signature, chain, and every file against its sum.
    fn look(&self, name: &SetName, recorded: Option<Sha256>) -> Result<Manifest, Vec<String>> {
        let directory = name.directory(&self.root);
        let Verified { manifest, sha256 } =
            Manifest::read(&directory, name, &self.verifying_key).map_err(|error| vec![chain_of(&error)])?;
        let mut reasons = Vec::new();
        if recorded.is_some_and(|recorded| recorded != sha256) {
            reasons.push("the manifest is not the one that was recorded when the set was made".to_owned());
        }
        if let Some(previous) = &manifest.previous {
            reasons.extend(self.look_at_previous(previous, &manifest).err());
        }
        reasons.extend(strangers(&directory, &manifest));
        for object in &manifest.objects {
            reasons.extend(look_at_object(&directory, object).err());
        }
        if reasons.is_empty() { Ok(manifest) } else { Err(reasons) }
    }

    fn look_at_previous(&self, previous: &Link, manifest: &Manifest) -> Result<(), String> {
        let name = &previous.name;
        let read = Manifest::read(&name.directory(&self.root), name, &self.verifying_key);
        let found = read.map_err(|error: ManifestError| format!("previous set {name}: {}", chain_of(&error)))?;
        if found.sha256 != previous.manifest_sha256 {
            return Err(format!("previous set {name} is not the one that this set follows"));
        }
        if found.manifest.created_at >= manifest.created_at {
            return Err(format!("previous set {name} is not older than this one"));
        }
        Ok(())
    }

    async fn open_models(&self, manifest: &Manifest) -> Vec<String> {
        let mut reasons = Vec::new();
        for object in &manifest.objects {
            let Content::Models { files } = &object.content else { continue };
            let path = manifest.name.directory(&self.root).join(&object.path);
            let (key, plain, files) = (self.decryption_key.clone(), object.plain(), files.clone());
            let opened = tokio::task::spawn_blocking(move || compare_models(&path, &key, plain, &files));
            let found = opened.await.expect("reading an archive does not panic");
            reasons.extend(found.into_iter().map(|reason| format!("{}: {reason}", object.path)));
        }
        reasons
    }

    async fn restore_databases(&self, manifest: &Manifest) -> Result<Vec<String>, VerifyError> {
        let mut reasons = Vec::new();
        let mut scratch = None;
        for object in &manifest.objects {
            let Content::Database { database, rows, .. } = &object.content else { continue };
            let scratch = match &mut scratch {
                Some(scratch) => scratch,
                none => none.insert(Scratch::start(&self.scratch).await?),
            };
            let path = manifest.name.directory(&self.root).join(&object.path);
            let restored = match scratch.restore(database, &path, &self.decryption_key, object.plain()).await? {
                Ok(()) => differences(rows, &scratch.count_rows(database).await?),
                Err(reason) => vec![reason],
            };
            reasons.extend(restored.into_iter().map(|reason| format!("{}: {reason}", object.path)));
        }
        Ok(reasons)
    }
}

/// Files that the manifest does not know.
fn strangers(directory: &Path, manifest: &Manifest) -> Vec<String> {
    let mut known: BTreeSet<&str> = manifest.objects.iter().map(|object| object.path.as_str()).collect();
    known.extend([MANIFEST_FILE, SIGNATURE_FILE]);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("the set cannot be listed: {error}")],
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !known.contains(name.as_str())).map(|name| format!("{name}: not in the manifest")).collect()
}

fn look_at_object(directory: &Path, object: &Object) -> Result<(), String> {
    let path = directory.join(&object.path);
    let refused = |reason: String| format!("{}: {reason}", object.path);
    // A link would be read as what it points to, which need not stay what it is.
    let metadata = fs::symlink_metadata(&path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refused("not a regular file".to_owned()));
    }
    if metadata.len() != object.size {
        return Err(refused(format!("{} bytes, should be {}", metadata.len(), object.size)));
    }
    let found = sealed::measure_file(&path).map_err(|error| refused(error.to_string()))?;
    if found == object.cipher() { Ok(()) } else { Err(refused("its SHA-256 is another".to_owned())) }
}

fn compare_models(path: &Path, key: &DecryptionKey, plain: Measured, files: &[ModelFile]) -> Vec<String> {
    let read = || {
        let mut opened = Opened::open(path, key)?;
        let found = models::measure(&mut opened)?;
        Ok::<_, io::Error>((found, opened.finish()?))
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

fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    problem::Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_tables_is_told() {
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
