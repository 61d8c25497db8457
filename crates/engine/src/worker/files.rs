//! The files of a version, and what a worker gets of them.

use std::{fs::File, io, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use sha256::Sha256Digest;

use super::EncodedRequest;
use crate::{
    fault::{LoadFault, Reason},
    golden::GOLDEN_BYTES_MAX,
    model_file::{self, read_from_start},
    signature::Signature,
};

/// The files of one version, held open: a worker is started again from what was declared, also when the folder has changed.
pub struct VersionFiles {
    model: File,
    golden: Option<File>,
    digest: Sha256Digest,
    bytes_max: u64,
    bytes: u64,
}

/// What a model that is loaded must be.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Declared {
    pub(super) signature: Signature,
    pub(super) has_golden: bool,
}

// === impl VersionFiles ===

impl VersionFiles {
    /// Opens the files of a version folder, and reads the model once to see that it is what was declared. Blocks.
    pub fn open(folder: &Path, digest: Sha256Digest, bytes_max: u64) -> Result<Self, LoadFault> {
        let golden = match File::open(folder.join("golden.json")) {
            Ok(golden) => Some(golden),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(golden_fault(&error.to_string())),
        };
        let mut files = Self { model: model_file::open(folder)?, golden, digest, bytes_max, bytes: 0 };
        files.bytes = files.read_model()?.len() as u64;
        Ok(files)
    }

    /// Length of the model file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read_model(&self) -> Result<Vec<u8>, LoadFault> {
        model_file::read(&self.model, self.digest, self.bytes_max)
    }

    fn read_golden(&self) -> Result<Vec<u8>, LoadFault> {
        let Some(golden) = &self.golden else { return Ok(Vec::new()) };
        let bytes = read_from_start(golden, GOLDEN_BYTES_MAX).map_err(|error| golden_fault(&error.to_string()))?;
        if bytes.len() as u64 > GOLDEN_BYTES_MAX {
            return Err(golden_fault(&format!("more than {GOLDEN_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Has a worker load this version into a slot.
    pub(super) async fn load_request(
        self: &Arc<Self>,
        signature: &Signature,
        slot: u32,
    ) -> Result<EncodedRequest, LoadFault> {
        let declared = Declared { signature: signature.clone(), has_golden: self.golden.is_some() };
        let files = Arc::clone(self);
        let read = move || {
            let declared = serde_json::to_vec(&declared).map_err(LoadFault::internal)?;
            Ok(EncodedRequest::load(slot, &declared, &files.read_golden()?, &files.read_model()?))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(LoadFault::internal(error)))
    }
}

fn golden_fault(detail: &str) -> LoadFault {
    LoadFault::new(Reason::Golden, format!("golden.json: {detail}"))
}
