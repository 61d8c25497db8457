//! A model file of which nothing is declared yet: what it takes and gives, and a golden example of it.
//!
//! For a process that does nothing else. Like a worker it gives up what it does not need before it loads the file.

use std::collections::BTreeSet;

use bytes::Bytes;
use ort::session::RunOptions;
use sha256::Sha256Digest;

use crate::{
    fault::{LoadFault, Reason},
    golden,
    library::{Engine, EngineConfig},
    model_file::{self, MODEL, graph::Graph},
    session::{RunFault, Served, Session},
    signature::Signature,
    tensor::Tensor,
    worker,
};

/// How far golden outputs may be off: absolute, or relative for values beyond 1.
const TOLERANCE: f64 = 1e-4;

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

/// The names of the files beside a model that hold its weights. Refuses what is no ONNX model, and names that cannot be those of files beside
/// it.
pub fn external_files(model: &Bytes) -> Result<BTreeSet<String>, LoadFault> {
    let format = |detail: String| LoadFault::new(Reason::Format, format!("{MODEL}: {detail}"));
    model_file::check_onnx(model).map_err(format)?;
    let files = Graph::read(model.clone()).map_err(format)?.external;
    match files.iter().find(|name| !model_file::is_data_name(name)) {
        None => Ok(files),
        Some(name) => Err(LoadFault::new(
            Reason::Artifact,
            format!(
                "{MODEL} keeps weights in {name:?}, which cannot be a file beside it: save it with a plain file name as the location"
            ),
        )),
    }
}

// === impl Inspection ===

impl Inspection {
    /// Gives up what this process does not need, for good, and loads a model and its weights. `memory_bytes_max` bounds the address space.
    pub fn start(
        library: &EngineConfig,
        memory_bytes_max: u64,
        model: Bytes,
        data: &[(String, Bytes)],
    ) -> Result<Self, LoadFault> {
        let engine = worker::confine(memory_bytes_max, || Engine::open(library), &library.library)?;
        let session = Session::new(&engine, model, data)?;
        let Served { signature, open_ranks, categories } = session.served()?.clone();
        Ok(Self { session, signature, open_ranks, categories })
    }

    /// What the model gives for inputs that fit its signature.
    pub fn compute(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunFault> {
        let options = RunOptions::new().map_err(|error| RunFault::Engine(error.to_string()))?;
        let wanted: Vec<usize> = (0..self.signature.outputs.len()).collect();
        self.session.run(inputs, &wanted, &options).map(|computed| computed.outputs)
    }

    /// The text of a `golden.json` with these, or the output that has no form in it.
    pub fn golden(&self, inputs: &[Tensor], outputs: &[Tensor]) -> Result<String, String> {
        golden::text(&self.signature, inputs, outputs, TOLERANCE)
    }

    /// The digest of a file, as `model.toml` has it.
    pub fn digest(file: &[u8]) -> Sha256Digest {
        Sha256Digest::of(file)
    }
}
