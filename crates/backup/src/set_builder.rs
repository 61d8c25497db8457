//! Builds a set: models and databases, encrypted; the manifest over them, signed and chained; then the name.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use database::DatabaseConfig;
use sha256::Sha256Digest;
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    dump::{self, DumpError},
    encrypted_file::EncryptedWriter,
    keys::{Recipient, SigningKey},
    manifest::{Content, Link, MANIFEST_FILE, Manifest, Object, SIGNATURE_FILE},
    models_archive::{self, ModelsError},
    progress::{Phase, Progress},
    run::BuiltSet,
    set_name::SetName,
    staging::{BackupRoot, Staging},
};

const MODELS_FILE: &str = "models.tar.zst.age";

/// Builds sets.
pub struct SetBuilder {
    /// The root of all sets.
    pub root: Arc<BackupRoot>,
    /// The models folder.
    pub models: PathBuf,
    /// The databases, each with a role that may read all of it.
    pub databases: Vec<DatabaseConfig>,
    /// The public key to encrypt to.
    pub recipient: Recipient,
    /// Signs the manifest.
    pub signing_key: Arc<SigningKey>,
    /// Bytes that must be free before a set is begun.
    pub free_bytes_min: u64,
}

/// Why no set was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not enough free disk space.
    #[error("only {free} bytes are free below {root}, and {needed} must be before a backup is begun")]
    NoRoom {
        /// Free bytes.
        free: u64,
        /// Bytes that must be free.
        needed: u64,
        /// Where.
        root: PathBuf,
    },
    /// The root cannot be read or written.
    #[error("cannot write the set")]
    Io(#[from] io::Error),
    /// The models cannot be archived.
    #[error("cannot back up the models")]
    Models(#[from] ModelsError),
    /// A database cannot be dumped.
    #[error("cannot back up the database {name}")]
    Dump {
        /// Which.
        name: String,
        /// Why.
        source: DumpError,
    },
}

// === impl SetBuilder ===

impl SetBuilder {
    /// Builds a set. `recorded_last` is the last one by the worker's database; the root may have a newer one (the database
    /// was restored) or lack it (verification then says so, because the new set is chained to it).
    ///
    /// Dropping this future leaves nothing behind.
    pub async fn build(
        &self,
        run: Uuid,
        recorded_last: Option<(Link, OffsetDateTime)>,
        now: OffsetDateTime,
        progress: &Progress,
    ) -> Result<BuiltSet, BuildError> {
        let free = self.root.free_bytes()?;
        if free < self.free_bytes_min {
            let root = self.root.path().to_owned();
            return Err(BuildError::NoRoom { free, needed: self.free_bytes_min, root });
        }
        let remembered_at = recorded_last.as_ref().map(|(_, at)| *at);
        let previous = self.previous(recorded_last);
        let (name, created_at) = self.name_and_time(now, remembered_at, previous.as_ref());
        let staging = self.root.stage(run)?;
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();

        progress.enter(Phase::ArchiveModels);
        let mut objects = vec![self.encrypt_models(&staging, stop.clone(), progress).await?];
        progress.enter(Phase::DumpDatabases);
        for database in &self.databases {
            let (directory, root) = (staging.directory(), self.root.path());
            let dumped = dump::dump(database, &directory, root, &self.recipient, stop.clone(), progress);
            objects.push(dumped.await.map_err(|source| BuildError::Dump { name: database.name.clone(), source })?);
        }
        let manifest =
            Manifest::new(name, created_at, &self.signing_key.verifying_key(), previous.map(|(link, _)| link), objects);
        let (bytes, signature) = manifest.sign(&self.signing_key);
        staging.write(MANIFEST_FILE, &bytes)?;
        staging.write(SIGNATURE_FILE, &signature)?;
        staging.publish(&self.root, &manifest.name)?;
        let manifest_sha256 = Sha256Digest::of(&bytes);
        Ok(BuiltSet { size_bytes: manifest.size(), link: Link { name: manifest.name, manifest_sha256 } })
    }

    async fn encrypt_models(
        &self,
        staging: &Staging,
        stop: CancellationToken,
        progress: &Progress,
    ) -> Result<Object, BuildError> {
        let path = staging.directory().join(MODELS_FILE);
        let mut writer = EncryptedWriter::create(&path, &self.recipient, stop, progress)?;
        let folder = self.models.clone();
        let encrypting = tokio::task::spawn_blocking(move || {
            let files = models_archive::archive(&folder, &mut writer)?;
            let (cipher, plain) = writer.finish().map_err(ModelsError::Write)?;
            Ok::<_, ModelsError>(Object::new(MODELS_FILE.to_owned(), cipher, plain, Content::Models { files }))
        });
        Ok(encrypting.await.expect("archiving does not panic")?)
    }

    /// A set is newer than the one before it, whatever the clock says: a chain in another order is INVALID for good. The
    /// first set of a day has the day's name. A name is never used twice, even if its set is gone.
    fn name_and_time(
        &self,
        now: OffsetDateTime,
        remembered_at: Option<OffsetDateTime>,
        previous: Option<&(Link, OffsetDateTime)>,
    ) -> (SetName, OffsetDateTime) {
        let is_used = |name: &SetName| {
            previous.is_some_and(|(link, _)| link.name == *name)
                || fs::symlink_metadata(name.top_directory(self.root.path())).is_ok()
        };
        let mut time = previous.map_or(now, |(_, previous_at)| now.max(*previous_at + Duration::SECOND));
        let day = SetName::of_day(time);
        if remembered_at.is_none_or(|at| at.date() != time.date()) && !is_used(&day) {
            return (day, time);
        }
        while is_used(&SetName::of_second(time)) {
            time += Duration::SECOND;
        }
        (SetName::of_second(time), time)
    }

    /// The set to chain to, and when it was made: the newest there is, by what the database remembers and what lies in the
    /// root.
    fn previous(&self, recorded_last: Option<(Link, OffsetDateTime)>) -> Option<(Link, OffsetDateTime)> {
        match (recorded_last, newest(self.root.path(), &self.signing_key)) {
            (Some(recorded_last), Some((_, found_at))) if recorded_last.1 >= found_at => Some(recorded_last),
            (_, Some(found)) => Some(found),
            (recorded_last, None) => recorded_last,
        }
    }
}

/// The newest set in the root whose manifest holds. A damaged one is not chained to: it would make the new one invalid.
fn newest(root: &Path, key: &SigningKey) -> Option<(Link, OffsetDateTime)> {
    let names = SetName::list(root).unwrap_or_default();
    let mut newest: Option<(Link, OffsetDateTime)> = None;
    for name in names {
        match Manifest::read(&name.directory(root), &name, &key.verifying_key()) {
            Ok(verified) => {
                let at = verified.manifest.created_at;
                if newest.as_ref().is_none_or(|(_, newest_at)| *newest_at < at) {
                    newest = Some((Link { name, manifest_sha256: verified.sha256 }, at));
                }
            }
            Err(error) => {
                tracing::warn!(set = %name, error = %problem::Chain(&error), "the manifest of a set is not valid; the next set is not chained to it");
            }
        }
    }
    newest
}
