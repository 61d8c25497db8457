//! One loaded model file that computes one call at a time.

mod lengths;
mod refusal;
mod served;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ort::{
    ErrorCode,
    ep::CPU,
    session::{RunOptions, SessionInputValue, builder::GraphOptimizationLevel},
    value::{DynValue, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType},
};

use crate::{
    fault::{LoadFault, Reason},
    library::Engine,
    model_file::{MODEL, graph::Graph, zipmap::without_zipmaps},
    signature::Signature,
    tensor::{Data, Datatype, Tensor, for_data},
};
use lengths::NamedLengths;
pub(crate) use refusal::Refusal;
use refusal::undeclared;
pub(crate) use served::Served;

/// Where ONNX Runtime finds no file.
const NO_FOLDER: &str = "/nonexistent";
/// What ONNX Runtime says when there is no memory: its own allocator, C++, or a size that has no number.
const OUT_OF_MEMORY: [&str; 3] = ["Failed to allocate memory", "bad_alloc", "Integer overflow"];

/// A session with one thread of its own: the caller's.
#[derive(Debug)]
pub(crate) struct Session {
    inner: ort::session::Session,
    /// What it takes and gives, or all that cannot be served of it.
    served: Result<Served, Vec<String>>,
    lengths: NamedLengths,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) compute: Duration,
}

/// Why a run gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFault {
    /// A node of the graph refused these inputs, e.g. two lengths that had to be equal.
    #[error("the model cannot compute these inputs: {0}")]
    Inputs(String),
    /// There was not as much memory as these inputs take.
    #[error("these inputs take more memory than the model may have: {0}")]
    Memory(String),
    /// The outputs are longer than an answer may be.
    #[error(
        "the outputs of these inputs take {bytes} bytes, and an answer at most {bytes_max} (inference.answer_bytes_max)"
    )]
    AnswerTooLong {
        /// Of the outputs that were asked for, in their binary form.
        bytes: u64,
        /// The most that is allowed.
        bytes_max: u64,
    },
    /// The call was given up.
    #[error("the call was cancelled")]
    Cancelled,
    /// The bindings panicked.
    #[error("the worker panicked")]
    Panicked,
    /// Anything else.
    #[error("onnx runtime failed: {0}")]
    Engine(String),
}

// === impl RunFault ===

impl RunFault {
    /// With what the model file's own names say about inputs that were refused.
    fn told_with(self, differences: &str) -> Self {
        match self {
            Self::Inputs(message) if !differences.is_empty() => Self::Inputs(format!("{differences} ({message})")),
            other => other,
        }
    }
}

// === impl Session ===

impl Session {
    /// Loads a model from its bytes, and its weights from those of the files that are declared. Others are not read: what has no
    /// digest is not part of a model.
    pub(crate) fn new(engine: &Engine, model: Bytes, data: &[(String, Bytes)]) -> Result<Self, LoadFault> {
        let format = |detail: String| LoadFault::new(Reason::Format, format!("{MODEL}: {detail}"));
        let graph = Graph::read(model.clone()).map_err(format)?;
        if let Some(fault) = &graph.zipmap_fault {
            return Err(format(fault.clone()));
        }
        if let Some(missing) = graph.external.iter().find(|file| !data.iter().any(|(name, _)| name == *file)) {
            return Err(undeclared(missing));
        }
        let model = match &*graph.zipmaps {
            [] => model,
            zipmaps => without_zipmaps(&model, zipmaps).map_err(format)?.into(),
        };
        Self::open(engine, &graph, &model, data).map_err(|refusal| refusal.fault(&graph))
    }

    /// Has ONNX Runtime load a model whose maps were left out.
    pub(crate) fn open(
        engine: &Engine,
        graph: &Graph,
        model: &[u8],
        data: &[(String, Bytes)],
    ) -> Result<Self, Refusal> {
        let build = || {
            let mut builder = ort::session::Session::builder(engine.environment())?
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?
                .with_inter_op_spinning(false)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_memory_pattern(false)?
                // What a run took is given back after it, not kept for the next: one large batch would hold it for good.
                .with_execution_providers([CPU::default().with_arena_allocator(false).build()])?
                .with_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)?;
            for (name, bytes) in data {
                builder = builder.with_external_initializer_file_in_memory(name, Arc::from(&**bytes))?;
            }
            builder.commit_from_memory(model)
        };
        let inner = build().map_err(|error: ort::Error| Refusal::of(&error.to_string()))?;
        let served = Served::of(inner.inputs(), inner.outputs(), graph);
        let lengths = NamedLengths::of(inner.inputs());
        Ok(Self { inner, served, lengths })
    }

    /// The declared signature in the order of the file, if it is true of the file.
    pub(crate) fn check_signature(&self, declared: &Signature) -> Result<Signature, LoadFault> {
        let real = self.served()?.fill_open_ranks(declared);
        declared.in_order_of(&real).map_err(|mismatch| LoadFault::new(Reason::Signature, mismatch.to_string()))
    }

    /// What it takes and gives, if that can be served.
    pub(crate) fn served(&self) -> Result<&Served, LoadFault> {
        self.served.as_ref().map_err(|faults| LoadFault::new(Reason::Signature, faults.join("; ")))
    }

    /// What cannot be served of it, a fault for each input and output.
    pub(crate) fn unserved(&self) -> Vec<LoadFault> {
        let faults = self.served.as_ref().err().into_iter().flatten();
        faults.map(|detail| LoadFault::new(Reason::Signature, detail.clone())).collect()
    }

    /// Computes all outputs and returns the wanted ones, by their position in the signature.
    pub(crate) fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        options: &RunOptions,
    ) -> Result<Computed, RunFault> {
        let engine = |error: ort::Error| RunFault::Engine(error.to_string());
        let values = inputs.iter().map(input).collect::<ort::Result<Vec<_>>>().map_err(engine)?;
        let started = Instant::now();
        let outputs = self
            .inner
            .run_with_options(values.as_slice(), options)
            .map_err(|error| fault(&error).told_with(&self.lengths.differences(inputs)))?;
        let compute = started.elapsed();
        let outputs = wanted
            .iter()
            .map(|position| {
                let value = outputs
                    .values()
                    .nth(*position)
                    .ok_or_else(|| RunFault::Engine(format!("there is no output {position}")))?;
                output(&value)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Computed { outputs, compute })
    }
}

pub(crate) fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// The tensor as the engine sees it: numbers in place, strings copied.
fn input(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape();
    for_data!(tensor.data(),
        values => TensorRef::from_array_view((shape, values.as_slice())).map(Into::into),
        bytes strings => {
            let texts: Vec<String> = strings.iter().map(|string| String::from_utf8(string.to_vec())).collect::<Result<_, _>>().map_err(ort::Error::wrap)?;
            OrtTensor::from_string_array((shape, texts.as_slice())).map(Into::into)
        }
    )
}

fn output(value: &DynValue) -> Result<Tensor, RunFault> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(RunFault::Engine(format!("an output is {}, not a tensor", value.dtype())));
    };
    let engine = |error: ort::Error| RunFault::Engine(error.to_string());
    macro_rules! copy {
        ($data:path) => {
            $data(value.try_extract_tensor().map_err(engine)?.1.to_vec())
        };
    }
    let data = match datatype(*ty) {
        Some(Datatype::Bool) => copy!(Data::Bool),
        Some(Datatype::Uint8) => copy!(Data::Uint8),
        Some(Datatype::Uint16) => copy!(Data::Uint16),
        Some(Datatype::Uint32) => copy!(Data::Uint32),
        Some(Datatype::Uint64) => copy!(Data::Uint64),
        Some(Datatype::Int8) => copy!(Data::Int8),
        Some(Datatype::Int16) => copy!(Data::Int16),
        Some(Datatype::Int32) => copy!(Data::Int32),
        Some(Datatype::Int64) => copy!(Data::Int64),
        Some(Datatype::Fp16) => copy!(Data::Fp16),
        Some(Datatype::Fp32) => copy!(Data::Fp32),
        Some(Datatype::Fp64) => copy!(Data::Fp64),
        Some(Datatype::Bf16) => copy!(Data::Bf16),
        Some(Datatype::Bytes) => {
            Data::Bytes(value.try_extract_strings().map_err(engine)?.1.into_iter().map(Bytes::from).collect())
        }
        None => return Err(RunFault::Engine(format!("an output has elements of type {ty}"))),
    };
    Tensor::new(shape.to_vec(), data).ok_or_else(|| RunFault::Engine("an output does not fill its shape".to_owned()))
}

/// ONNX Runtime has few error codes; its words tell a node that refused from a machine that failed.
fn fault(error: &ort::Error) -> RunFault {
    let message = error.message();
    if message.contains("terminate flag") {
        return RunFault::Cancelled;
    }
    if OUT_OF_MEMORY.iter().any(|words| message.contains(words)) {
        return RunFault::Memory(message.to_owned());
    }
    if error.code() == ErrorCode::InvalidArgument || message.contains("Non-zero status code returned while running") {
        return RunFault::Inputs(message.to_owned());
    }
    RunFault::Engine(message.to_owned())
}
