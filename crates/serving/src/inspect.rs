//! `rampart-serving inspect`: what a model file takes and gives, as JSON, with a golden example that this engine computed.
//!
//! For `rampart models`, which writes a `model.toml` from it. It reads files, then gives up files and network, and only then loads the model.

mod drawn;
mod npy;
mod npz;
mod open_ranks;
mod parquet;
mod sample;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use bytes::Bytes;
use clap::Parser;
use engine::{EngineConfig, FileDigests, Inspection, Signature, TensorSpec, external_files, tensor::Tensor};
use serde::Serialize;
use serde_json::value::RawValue;
use sha256::Sha256Digest;

use sample::{Sample, SampleFile};

/// The subcommand.
pub const SUBCOMMAND: &str = "inspect";
/// The file of a model in the folder of its version.
const MODEL: &str = "model.onnx";
/// With all of its weights.
const MODEL_BYTES_MAX: u64 = 2 << 30;
const SAMPLE_BYTES_MAX: u64 = 16 << 20;

#[derive(Parser)]
#[command(name = "rampart-serving inspect", about = "Print what a model file takes and gives, with a golden example")]
struct Arguments {
    /// The model file. Files with its weights are looked for beside it.
    model: PathBuf,
    /// ONNX Runtime's shared library.
    #[arg(long, env = "RAMPART_ONNXRUNTIME")]
    onnxruntime: PathBuf,
    /// Its SHA-256, in hex.
    #[arg(long, env = "RAMPART_ONNXRUNTIME_SHA256")]
    onnxruntime_sha256: Sha256Digest,
    /// Records for the golden example: .json or .csv as the route /api/models/{model}/predict takes them, or the same as arrays by name in
    /// .npy, .npz or .parquet. Without it they are drawn.
    #[arg(long)]
    sample: Option<PathBuf>,
    /// The address space that the model may take. Bytes.
    #[arg(long, default_value_t = 8 << 30)]
    memory_bytes_max: u64,
}

#[derive(Serialize)]
struct Report {
    /// Of the model file.
    sha256: Sha256Digest,
    /// Of all files together: see [`FileDigests::whole`].
    digest: Sha256Digest,
    /// Of the files beside the model that hold its weights.
    data: BTreeMap<String, Sha256Digest>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    golden: Box<RawValue>,
}

/// What the process needs of files, read before it gives them up.
struct Read {
    model: Bytes,
    data: Vec<(String, Bytes)>,
    sample: Option<SampleFile>,
}

/// Runs the subcommand. The report goes to standard output, what is wrong to standard error.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    match inspect(&arguments).and_then(|report| print(&report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(detail) => {
            let _closed = writeln!(io::stderr(), "{detail}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &Report) -> Result<(), String> {
    let text = serde_json::to_string(report).map_err(|error| error.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| format!("standard output: {error}"))
}

fn inspect(arguments: &Arguments) -> Result<Report, String> {
    let Read { model, data, sample } = read(arguments)?;
    let (sha256, data_digests) = (Inspection::digest(&model), digests(&data));
    let library = EngineConfig { library: arguments.onnxruntime.clone(), sha256: arguments.onnxruntime_sha256 };
    let mut inspection =
        Inspection::start(&library, arguments.memory_bytes_max, model, &data).map_err(|fault| fault.to_string())?;
    let sample = sample.map(SampleFile::read).transpose()?;
    let inputs = inputs(&mut inspection, sample.as_ref())?;
    let outputs = inspection.compute(&inputs).map_err(|fault| match &sample {
        Some(_) => format!("the model does not compute the sample: {fault}"),
        None => format!(
            "the model does not compute rows that were drawn for it ({fault}); give rows that it takes with --sample"
        ),
    })?;
    open_ranks::fill_outputs(&mut inspection, &inputs, &outputs);
    let golden = inspection.golden(&inputs, &outputs).map_err(|detail| match &sample {
        Some(_) => detail,
        None => format!("{detail}; give rows for which the model gives finite numbers with --sample"),
    })?;
    let golden = RawValue::from_string(golden).map_err(|error| error.to_string())?;
    let Signature { inputs, outputs } = inspection.signature;
    let digests = FileDigests { model: sha256, data: data_digests };
    Ok(Report { sha256, digest: digests.whole(), data: digests.data, inputs, outputs, golden })
}

fn inputs(inspection: &mut Inspection, sample: Option<&Sample>) -> Result<Vec<Tensor>, String> {
    open_ranks::fill_inputs(inspection, sample)?;
    match sample {
        Some(sample) => {
            sample.name_columns(&mut inspection.signature);
            sample.tensors(&inspection.signature)
        }
        None => Ok(drawn::tensors(&inspection.signature.inputs, &inspection.categories)),
    }
}

fn read(arguments: &Arguments) -> Result<Read, String> {
    let model = bounded(&arguments.model, MODEL_BYTES_MAX)?;
    let folder = arguments.model.parent().unwrap_or(Path::new(""));
    let names = external_files(&model).map_err(|fault| fault.to_string())?;
    let mut left = MODEL_BYTES_MAX.saturating_sub(model.len() as u64);
    let mut data = Vec::new();
    for name in names {
        let bytes = bounded(&folder.join(&name), left)
            .map_err(|detail| format!("{MODEL} keeps weights in a file beside it: {detail}"))?;
        left = left.saturating_sub(bytes.len() as u64);
        data.push((name, bytes));
    }
    let sample =
        arguments.sample.as_deref().map(|path| SampleFile::new(path, bounded(path, SAMPLE_BYTES_MAX)?)).transpose()?;
    Ok(Read { model, data, sample })
}

fn bounded(path: &Path, bytes_max: u64) -> Result<Bytes, String> {
    let unreadable = |error: io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("{}: is not a file", path.display()));
    }
    let bytes = metadata.len();
    if bytes > bytes_max {
        return Err(format!("{}: {bytes} bytes, more than the {bytes_max} that are left for it", path.display()));
    }
    fs::read(path).map(Bytes::from).map_err(unreadable)
}

fn digests(data: &[(String, Bytes)]) -> BTreeMap<String, Sha256Digest> {
    data.iter().map(|(name, bytes)| (name.clone(), Inspection::digest(bytes))).collect()
}
