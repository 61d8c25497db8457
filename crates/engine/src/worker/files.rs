//! The files of a version, and what a worker gets of them.

use std::{collections::BTreeMap, fs::File, io, path::Path, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{EncodedRequest, wire::LoadFiles};
use crate::{
    fault::{LoadFault, Reason},
    golden::GOLDEN_BYTES_MAX,
    model_file::{self, FileDigests, read_from_start, unreadable},
    signature::Signature,
};

const GOLDEN: &str = "golden.json";

/// The files of one version, held open: a worker is started again from what was declared, also when the folder has changed.
pub struct VersionFiles {
    model: File,
    golden: Option<File>,
    /// With weights, by their names.
    data: BTreeMap<String, File>,
    digests: FileDigests,
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
    /// Opens the files of a version folder, and reads model and weights once to see that they are what was declared. Blocks.
    pub fn open(folder: &Path, digests: FileDigests, bytes_max: u64) -> Result<Self, LoadFault> {
        let place = folder.file_name().unwrap_or_default().to_string_lossy();
        model_file::refuse_link(folder).map_err(|error| unreadable(&place, &error))?;
        let golden = match model_file::open(folder, GOLDEN) {
            Ok(golden) => Some(golden),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(golden_fault(&error.to_string())),
        };
        let open = |name: &str| model_file::open(folder, name).map_err(|error| unreadable(name, &error));
        let data = digests.data.keys().map(|name| Ok((name.clone(), open(name)?))).collect::<Result<_, LoadFault>>()?;
        let mut files = Self { model: open(model_file::MODEL)?, golden, data, digests, bytes_max, bytes: 0 };
        let model = files.read_model()?.len() as u64;
        files.bytes = model + files.read_data()?.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        Ok(files)
    }

    /// Length of the model file and of those with its weights.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read_model(&self) -> Result<Bytes, LoadFault> {
        model_file::read(&self.model, self.digests.model, self.bytes_max).map(Bytes::from)
    }

    /// The weights that are not in the model file. Together with it they are not more than the bytes of one model.
    pub(crate) fn read_data(&self) -> Result<Vec<(String, Bytes)>, LoadFault> {
        let mut left = self.bytes_max.saturating_sub(self.model.metadata().map_or(0, |it| it.len()));
        let mut read = Vec::new();
        for ((name, file), digest) in self.data.iter().zip(self.digests.data.values()) {
            let bytes = model_file::read_data(file, name, *digest, left)?;
            left = left.saturating_sub(bytes.len() as u64);
            read.push((name.clone(), Bytes::from(bytes)));
        }
        Ok(read)
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
            let declared = serde_json::to_vec(&declared).map_err(LoadFault::internal)?.into();
            let (golden, model, data) = (files.read_golden()?.into(), files.read_model()?, files.read_data()?);
            Ok(EncodedRequest::load(slot, &LoadFiles { declared, golden, data, model }))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(LoadFault::internal(error)))
    }
}

fn golden_fault(detail: &str) -> LoadFault {
    LoadFault::new(Reason::Golden, format!("{GOLDEN}: {detail}"))
}
