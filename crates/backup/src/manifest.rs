//! The manifest of a set: its objects, their sizes and digests encrypted and plain, and the set before it.
//!
//! The signature is over the stored bytes of `manifest.json`, so that it does not depend on how JSON is written.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha256::{Measured, Sha256Digest};
use time::OffsetDateTime;

use crate::{
    keys::{SIGNATURE_BYTES, SigningKey, VerifyingKey},
    set_name::SetName,
};

/// The manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Its signature's file: 64 bytes, Ed25519.
pub const SIGNATURE_FILE: &str = "manifest.sig";
/// The largest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
const FORMAT: &str = "rampart-backup-set";
const FORMAT_VERSION: u32 = 1;

/// What a set is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What this file is: always the same word.
    pub format: String,
    /// How to read it.
    pub format_version: u32,
    /// The set's name, which is also its place.
    pub name: SetName,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The key that signed it.
    pub signed_by: Sha256Digest,
    /// The set before it; absent for the first one.
    pub previous: Option<Link>,
    /// Its files.
    pub objects: Vec<Object>,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The set.
    pub name: SetName,
    /// The sum of its `manifest.json`.
    pub manifest_sha256: Sha256Digest,
}

/// One encrypted file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// File name, next to the manifest.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// Sum of the file.
    pub sha256: Sha256Digest,
    /// Bytes once decrypted and decompressed.
    pub plain_size: u64,
    /// Sum once decrypted and decompressed.
    pub plain_sha256: Sha256Digest,
    /// What it holds.
    pub content: Content,
}

/// What an object holds, and what must come out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// The models folder, as tar.
    Models {
        /// Every file in it.
        files: Vec<ModelFile>,
    },
    /// One database, as `pg_dump` wrote it in its custom format.
    Database {
        /// Its name.
        database: String,
        /// The server's version, e.g. `15.18`.
        server_version: String,
        /// Rows of every table, counted in the snapshot of the dump; by `schema.table`.
        rows: BTreeMap<String, i64>,
    },
}

/// A file of the models folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Sum.
    pub sha256: Sha256Digest,
}

/// A manifest whose signature was verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub manifest: Manifest,
    /// The sum of its bytes.
    pub sha256: Sha256Digest,
}

/// Why a manifest is not valid.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file of the two is missing or unreadable.
    #[error("{file} cannot be read")]
    Unreadable {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Not 64 bytes, or not this key's over these bytes.
    #[error("{SIGNATURE_FILE} is not a signature of {MANIFEST_FILE} by the expected key")]
    Signature,
    /// Signed, but not a manifest that this program reads.
    #[error("{MANIFEST_FILE} is not a manifest of format {FORMAT_VERSION}")]
    Format(#[source] Option<serde_json::Error>),
    /// Signed, but of another set.
    #[error("the manifest is that of {found}")]
    OtherSet {
        /// The name in it.
        found: SetName,
    },
}

// === impl Manifest ===

impl Manifest {
    /// A manifest of these objects.
    pub fn new(
        name: SetName,
        created_at: OffsetDateTime,
        signed_by: &VerifyingKey,
        previous: Option<Link>,
        objects: Vec<Object>,
    ) -> Self {
        let format = FORMAT.to_owned();
        Self { format, format_version: FORMAT_VERSION, name, created_at, signed_by: signed_by.id(), previous, objects }
    }

    /// The two files: manifest and signature.
    pub fn sign(&self, key: &SigningKey) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        bytes.push(b'\n');
        let signature = key.sign(&bytes);
        (bytes, signature)
    }

    /// Reads the manifest of a set. It is parsed only after its signature was verified.
    pub fn read(directory: &Path, name: &SetName, key: &VerifyingKey) -> Result<Verified, ManifestError> {
        let bytes = read_bounded(directory, MANIFEST_FILE, MANIFEST_BYTES_MAX)?;
        let signature = read_bounded(directory, SIGNATURE_FILE, SIGNATURE_BYTES as u64 + 1)?;
        if signature.len() != SIGNATURE_BYTES || !key.verifies(&bytes, &signature) {
            return Err(ManifestError::Signature);
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| ManifestError::Format(Some(error)))?;
        if manifest.format != FORMAT || manifest.format_version != FORMAT_VERSION || !manifest.has_plain_paths() {
            return Err(ManifestError::Format(None));
        }
        if manifest.name != *name {
            return Err(ManifestError::OtherSet { found: manifest.name });
        }
        Ok(Verified { manifest, sha256: Sha256Digest::of(&bytes) })
    }

    /// Bytes of all objects.
    pub fn size(&self) -> u64 {
        self.objects.iter().map(|object| object.size).sum()
    }

    fn has_plain_paths(&self) -> bool {
        let is_plain = |path: &str| !path.is_empty() && !path.starts_with('.') && !path.contains(['/', '\\', '\0']);
        self.objects.iter().all(|object| is_plain(&object.path))
    }
}

// === impl Object ===

impl Object {
    /// An object as it was written.
    pub fn new(path: String, cipher: Measured, plain: Measured, content: Content) -> Self {
        Self {
            path,
            size: cipher.size,
            sha256: cipher.sha256,
            plain_size: plain.size,
            plain_sha256: plain.sha256,
            content,
        }
    }

    /// What decryption must give.
    pub fn plain(&self) -> Measured {
        Measured { size: self.plain_size, sha256: self.plain_sha256 }
    }

    /// What the file must be.
    pub fn cipher(&self) -> Measured {
        Measured { size: self.size, sha256: self.sha256 }
    }
}

fn read_bounded(directory: &Path, file: &'static str, bytes_max: u64) -> Result<Vec<u8>, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable { file, source };
    let mut bytes = Vec::new();
    let opened = File::open(directory.join(file)).map_err(unreadable)?;
    opened.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        Ok(bytes)
    } else {
        Err(unreadable(io::Error::other(format!("larger than {bytes_max} bytes"))))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::keys::tests::generate;

    fn written(change: impl FnOnce(&mut Manifest)) -> (tempfile::TempDir, VerifyingKey) {
        let (_, key) = generate();
        let created_at = datetime!(2026-11-22 02:00 UTC);
        let measured = Measured { size: 3, sha256: Sha256Digest::of(b"abc") };
        let object = Object::new("a.age".into(), measured, measured, Content::Models { files: vec![] });
        let name = SetName::of_day(created_at);
        let mut manifest = Manifest::new(name, created_at, &key.verifying_key(), None, vec![object]);
        change(&mut manifest);
        let (bytes, signature) = manifest.sign(&key);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MANIFEST_FILE), bytes).unwrap();
        std::fs::write(directory.path().join(SIGNATURE_FILE), signature).unwrap();
        (directory, key.verifying_key())
    }

    fn read(change: impl FnOnce(&mut Manifest)) -> Result<Verified, ManifestError> {
        let (directory, key) = written(change);
        Manifest::read(directory.path(), &"ml-data-2026-11-22".parse().unwrap(), &key)
    }

    #[test]
    fn signed_manifest_is_read() {
        let verified = read(|_| {}).unwrap();
        assert_eq!(verified.manifest.size(), 3);
    }

    #[test]
    fn every_byte_of_both_files_counts() {
        let (directory, key) = written(|_| {});
        let name = "ml-data-2026-11-22".parse().unwrap();
        for file in [MANIFEST_FILE, SIGNATURE_FILE] {
            let path = directory.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            for byte in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[byte] ^= 1 << (byte % 8);
                std::fs::write(&path, flipped).unwrap();
                assert!(Manifest::read(directory.path(), &name, &key).is_err(), "{file}, byte {byte}");
            }
            std::fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
            assert!(Manifest::read(directory.path(), &name, &key).is_err(), "{file} is longer");
            std::fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn a_signed_manifest_of_another_set_or_format_is_refused() {
        let other = read(|manifest| manifest.name = "ml-data-2026-11-21".parse().unwrap());
        assert!(matches!(other, Err(ManifestError::OtherSet { .. })));
        let future = read(|manifest| manifest.format_version = 2);
        assert!(matches!(future, Err(ManifestError::Format(None))));
        let escape = read(|manifest| manifest.objects[0].path = "../a.age".into());
        assert!(matches!(escape, Err(ManifestError::Format(None))));
    }
}
