//! A model file of which nothing is declared yet: what it takes and gives, and a golden example of it.
//!
//! For a process that does nothing else. Like a worker it gives up what it does not need before it loads the file.

use std::{borrow::Cow, collections::BTreeSet};

use bytes::Bytes;
use ort::session::RunOptions;
use prost::encoding::encode_varint;
use sha256::Sha256Digest;

use crate::{
    fault::{LoadFault, Reason},
    golden,
    library::{Engine, EngineConfig},
    model_file::{self, MODEL, graph::Graph, zipmap::without_zipmaps},
    session::{Refusal, RunFault, Served, Session},
    signature::Signature,
    tensor::Tensor,
    worker,
};

/// How far golden outputs may be off: absolute, or relative for values beyond 1.
const TOLERANCE: f64 = 1e-4;

/// The key of `onnx.ModelProto.ir_version` in a file.
const IR_VERSION: u64 = 1 << 3;

/// A process that has given up what it does not need, and loads model files with what it has left.
pub struct Inspector {
    engine: Engine,
}

/// A file that was loaded.
#[derive(Debug)]
pub struct Inspection {
    session: Session,
    /// As it would be served.
    pub signature: Signature,
    /// The inputs and outputs whose number of dimensions the file does not say; they are in the signature without any.
    pub open_ranks: BTreeSet<String>,
    /// The words that its encoders of categories know, a list for each, as far as the file has them.
    pub categories: Vec<Vec<String>>,
}

/// The files beside a model that hold its weights.
#[derive(Debug)]
pub struct ExternalFiles {
    /// Their names.
    pub names: Vec<String>,
    /// Names that cannot be those of files beside it.
    pub faults: Vec<LoadFault>,
}

/// The files beside a model that hold its weights. Refuses what is no ONNX model.
pub fn external_files(model: &Bytes) -> Result<ExternalFiles, LoadFault> {
    model_file::check_onnx(model).map_err(format)?;
    let files = Graph::read(model.clone()).map_err(format)?.external;
    let (names, misnamed): (Vec<_>, Vec<_>) = files.into_iter().partition(|name| model_file::is_data_name(name));
    let fault = |name: String| {
        LoadFault::new(
            Reason::Artifact,
            format!(
                "{MODEL} keeps weights in {name:?}, which cannot be a file beside it: save it with a plain file name as the location"
            ),
        )
    };
    Ok(ExternalFiles { names, faults: misnamed.into_iter().map(fault).collect() })
}

fn format(detail: String) -> LoadFault {
    LoadFault::new(Reason::Format, format!("{MODEL}: {detail}"))
}

// === impl Inspector ===

impl Inspector {
    /// Gives up what this process does not need, for good. `memory_bytes_max` bounds the address space.
    pub fn start(library: &EngineConfig, memory_bytes_max: u64) -> Result<Self, LoadFault> {
        let engine = worker::confine(memory_bytes_max, || Engine::open(library), &library.library)?;
        Ok(Self { engine })
    }

    /// Loads a model with its weights, or tells all that keeps it from being served. Files that `data` lacks are for the caller to tell.
    pub fn load(&self, model: Bytes, data: &[(String, Bytes)]) -> Result<Inspection, Vec<LoadFault>> {
        let graph = Graph::read(model.clone()).map_err(|detail| vec![format(detail)])?;
        let model = match &*graph.zipmaps {
            [] => model,
            zipmaps => without_zipmaps(&model, zipmaps).map_err(|detail| vec![format(detail)])?.into(),
        };
        let is_whole = graph.external.iter().all(|file| data.iter().any(|(name, _)| name == file));
        let mut faults: Vec<LoadFault> = graph.zipmap_fault.iter().cloned().map(format).collect();
        let session = match self.open(&graph, &model, data, is_whole) {
            Ok(session) => session,
            Err(refusals) => {
                faults.extend(refusals);
                return Err(faults);
            }
        };
        faults.extend(session.unserved());
        if !is_whole || !faults.is_empty() {
            return Err(faults);
        }
        let Served { signature, open_ranks, categories } = session.served().map_err(|fault| vec![fault])?.clone();
        Ok(Inspection { session, signature, open_ranks, categories })
    }

    /// ONNX Runtime names the first reason and no other. A file of an IR version that is too new is read again as one of the newest: what is
    /// wrong besides that shows then. Of one whose opset is too new, or that lacks weights, only the file itself tells more.
    fn open(
        &self,
        graph: &Graph,
        model: &[u8],
        data: &[(String, Bytes)],
        is_whole: bool,
    ) -> Result<Session, Vec<LoadFault>> {
        let (mut claimed, mut faults) = (Cow::Borrowed(model), Vec::new());
        loop {
            let refusal = match Session::open(&self.engine, graph, &claimed, data) {
                Ok(session) if faults.is_empty() => return Ok(session),
                Ok(session) => {
                    faults.extend(session.unserved());
                    return Err(faults);
                }
                Err(refusal) => refusal,
            };
            // Without its weights a model is refused for that, in words that say less than the name of the missing file.
            if is_whole || !matches!(refusal, Refusal::Other(_)) {
                faults.push(refusal.fault(graph));
            }
            match refusal {
                Refusal::IrVersion(newest) if matches!(claimed, Cow::Borrowed(_)) => {
                    claimed = Cow::Owned(with_ir_version(model, newest));
                }
                _ => break,
            }
        }
        faults.extend(graph.unserved.iter().map(|detail| LoadFault::new(Reason::Signature, detail.clone())));
        Err(faults)
    }
}

/// Of a field that comes twice the last one counts.
fn with_ir_version(model: &[u8], version: u64) -> Vec<u8> {
    let mut model = model.to_vec();
    encode_varint(IR_VERSION, &mut model);
    encode_varint(version, &mut model);
    model
}

// === impl Inspection ===

impl Inspection {
    /// What the model gives for inputs that fit its signature.
    pub fn compute(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunFault> {
        let options = RunOptions::new().map_err(|error| RunFault::Engine(error.to_string()))?;
        let wanted: Vec<usize> = (0..self.signature.outputs.len()).collect();
        self.session.run(inputs, &wanted, &options).map(|computed| computed.outputs)
    }

    /// The text of a `golden.json` with these, or the inputs and outputs that have no form in it.
    pub fn golden(&self, inputs: &[Tensor], outputs: &[Tensor]) -> Result<String, Vec<String>> {
        golden::text(&self.signature, inputs, outputs, TOLERANCE)
    }

    /// The digest of a file, as `model.toml` has it.
    pub fn digest(file: &[u8]) -> Sha256Digest {
        Sha256Digest::of(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_version_in_a_file_counts() {
        let read = |model: Vec<u8>| Graph::read(model.into()).unwrap().ir_version;
        assert_eq!(read(vec![0x08, 99]), 99);
        assert_eq!(read(with_ir_version(&[0x08, 99], 200)), 200);
    }
}
