//! `rampart-serving inspect`: what a model file takes and gives, as JSON, with a golden example that this engine computed.
//!
//! For `rampart models`, which writes a `model.toml` from it. It reads files, then gives up files and network, and only then loads the model.
//! Of a file that cannot be served it prints everything that is wrong, as far as one fault does not hide the other.

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
use engine::{
    EngineConfig, ExternalFiles, FileDigests, Inspection, Inspector, Signature, TensorSpec, external_files,
    tensor::Tensor,
};
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
    /// None if there is no such file, or no ONNX model in it.
    model: Option<ModelFiles>,
    sample: Option<SampleFile>,
    /// What is wrong with them.
    findings: Vec<String>,
}

/// A model and its weights, as far as they are there.
struct ModelFiles {
    model: Bytes,
    data: Vec<(String, Bytes)>,
}

/// Runs the subcommand. The report goes to standard output, or the list of all that was found to be wrong.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    let inspected = inspect(&arguments);
    let printed = match &inspected {
        Ok(report) => print(report),
        Err(findings) => {
            let findings: Vec<String> = findings.iter().map(|finding| one_line(finding)).collect();
            print(&serde_json::json!({ "findings": findings }))
        }
    };
    match (inspected, printed) {
        (Ok(_), Ok(())) => ExitCode::SUCCESS,
        (_, Ok(())) => ExitCode::FAILURE,
        (_, Err(detail)) => {
            let _closed = writeln!(io::stderr(), "{detail}");
            ExitCode::FAILURE
        }
    }
}

fn print(document: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string(document).map_err(|error| error.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| format!("standard output: {error}"))
}

/// ONNX Runtime writes some of its reasons on several lines.
fn one_line(finding: &str) -> String {
    finding.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn inspect(arguments: &Arguments) -> Result<Report, Vec<String>> {
    let Read { model, sample, mut findings } = read(arguments);
    let library = EngineConfig { library: arguments.onnxruntime.clone(), sha256: arguments.onnxruntime_sha256 };
    let inspector = match Inspector::start(&library, arguments.memory_bytes_max) {
        Ok(inspector) => inspector,
        Err(fault) => {
            findings.push(fault.to_string());
            return Err(findings);
        }
    };
    let sample = sample.map(SampleFile::read).transpose().unwrap_or_else(|detail| {
        findings.push(detail);
        None
    });
    let Some(ModelFiles { model, data }) = model else { return Err(findings) };
    let digests = FileDigests { model: Inspection::digest(&model), data: digests(&data) };
    match inspector.load(model, &data) {
        Ok(inspection) if findings.is_empty() => report(inspection, sample.as_ref(), digests),
        Ok(_) => Err(findings),
        Err(faults) => {
            findings.extend(faults.iter().map(ToString::to_string));
            Err(findings)
        }
    }
}

fn report(mut inspection: Inspection, sample: Option<&Sample>, digests: FileDigests) -> Result<Report, Vec<String>> {
    let inputs = inputs(&mut inspection, sample)?;
    let outputs = inspection.compute(&inputs).map_err(|fault| {
        vec![match sample {
            Some(_) => format!("the model does not compute the sample: {fault}"),
            None => format!(
                "the model does not compute rows that were drawn for it ({fault}); give rows that it takes with --sample"
            ),
        }]
    })?;
    open_ranks::fill_outputs(&mut inspection, &inputs, &outputs);
    let golden = inspection.golden(&inputs, &outputs).map_err(|details| match sample {
        Some(_) => details,
        None => {
            let remedy = "give rows for which the model gives finite numbers with --sample";
            details.into_iter().map(|detail| format!("{detail}; {remedy}")).collect()
        }
    })?;
    let golden = RawValue::from_string(golden).map_err(|error| vec![error.to_string()])?;
    let Signature { inputs, outputs } = inspection.signature;
    Ok(Report { sha256: digests.model, digest: digests.whole(), data: digests.data, inputs, outputs, golden })
}

fn inputs(inspection: &mut Inspection, sample: Option<&Sample>) -> Result<Vec<Tensor>, Vec<String>> {
    open_ranks::fill_inputs(inspection, sample).map_err(|detail| vec![detail])?;
    match sample {
        Some(sample) => {
            sample.name_columns(&mut inspection.signature);
            sample.tensors(&inspection.signature)
        }
        None => Ok(drawn::tensors(&inspection.signature.inputs, &inspection.categories)),
    }
}

/// Everything that can be read is, whatever else cannot.
fn read(arguments: &Arguments) -> Read {
    let mut findings = Vec::new();
    let model = ModelFiles::read(&arguments.model, &mut findings);
    let file = |path: &PathBuf| SampleFile::new(path, bounded(path, SAMPLE_BYTES_MAX)?);
    let sample = arguments.sample.as_ref().map(file).transpose().unwrap_or_else(|detail| {
        findings.push(detail);
        None
    });
    Read { model, sample, findings }
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

// === impl ModelFiles ===

impl ModelFiles {
    fn read(path: &Path, findings: &mut Vec<String>) -> Option<Self> {
        let read = bounded(path, MODEL_BYTES_MAX);
        let read = read.and_then(|model| Ok((external_files(&model).map_err(|fault| fault.to_string())?, model)));
        let (ExternalFiles { names, faults }, model) = match read {
            Ok(read) => read,
            Err(detail) => {
                findings.push(detail);
                return None;
            }
        };
        findings.extend(faults.iter().map(ToString::to_string));
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut left = MODEL_BYTES_MAX.saturating_sub(model.len() as u64);
        let mut data = Vec::new();
        for name in names {
            match bounded(&folder.join(&name), left) {
                Ok(bytes) => {
                    left = left.saturating_sub(bytes.len() as u64);
                    data.push((name, bytes));
                }
                Err(detail) => findings.push(format!("{MODEL} keeps weights in a file beside it: {detail}")),
            }
        }
        Some(Self { model, data })
    }
}
