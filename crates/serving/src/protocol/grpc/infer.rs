//! An inference in gRPC's messages: typed contents or raw contents, never both, and the answer in the caller's form.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use engine::{
    Signature,
    tensor::{BinaryFault, Data, Datatype, Tensor, decode_binary, encode_binary, is_text},
};
use model_repository::Model;
use problem::{Kind, Problem};
use proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};

use crate::{
    inference::{Call, Inputs, Place, wanted_output},
    protocol::{binary_problem, wire::RANK_MAX},
};

/// What the answer needs of the request.
pub(super) struct Reply {
    id: String,
    wanted: Vec<usize>,
    raw: bool,
}

/// Reads a request against the model's signature.
pub(super) fn read(request: ModelInferRequest, signature: &Signature) -> Result<(Call, Reply), Problem> {
    let raw = !request.raw_input_contents.is_empty();
    if raw && request.raw_input_contents.len() != request.inputs.len() {
        let detail = format!(
            "{} entries, but there are {} inputs: raw contents are for all or none",
            request.raw_input_contents.len(),
            request.inputs.len()
        );
        return Err(wrong(detail).field("raw_input_contents"));
    }
    let mut inputs = Inputs::new(signature);
    let mut raw_contents = request.raw_input_contents.into_iter();
    for (index, mut input) in request.inputs.into_iter().enumerate() {
        let place = Place("inputs", index);
        refuse_shared_memory(&input.parameters, place)?;
        let name = std::mem::take(&mut input.name);
        let tensor = read_tensor(input, raw_contents.next(), place)?;
        inputs.put(&name, tensor, place)?;
    }
    let wanted = read_outputs(&request.outputs, signature)?;
    let half = wanted
        .iter()
        .filter_map(|position| signature.outputs.get(*position))
        .any(|spec| !spec.datatype.has_json_form());
    let call = Call { inputs: inputs.finish()?, wanted: wanted.clone(), timeout: read_timeout(&request.parameters)? };
    // Half precision has no typed contents, so an answer with any of it is raw as a whole.
    Ok((call, Reply { id: request.id, wanted, raw: raw || half }))
}

// === impl Reply ===

impl Reply {
    pub(super) fn write(self, model: &Model, outputs: &[Tensor]) -> ModelInferResponse {
        let mut response = ModelInferResponse {
            model_name: model.identity.name.to_string(),
            model_version: model.version_text.clone(),
            id: self.id,
            ..ModelInferResponse::default()
        };
        for (output, position) in outputs.iter().zip(&self.wanted) {
            let contents = if self.raw { None } else { typed(output.data()) };
            if self.raw {
                let mut raw = Vec::new();
                encode_binary(output.data(), &mut raw);
                response.raw_output_contents.push(Bytes::from(raw));
            }
            response.outputs.push(InferOutputTensor {
                name: model.signature.outputs.get(*position).map(|spec| spec.name.clone()).unwrap_or_default(),
                datatype: output.datatype().to_string(),
                shape: output.shape().to_vec(),
                parameters: HashMap::new(),
                contents,
            });
        }
        response
    }
}

fn read_outputs(outputs: &[InferRequestedOutputTensor], signature: &Signature) -> Result<Vec<usize>, Problem> {
    if outputs.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    let mut wanted = Vec::with_capacity(outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        let place = Place("outputs", index);
        refuse_shared_memory(&output.parameters, place)?;
        if output.parameters.contains_key("classification") {
            return Err(wrong("classification is not offered").field(format!("{place}.parameters.classification")));
        }
        let position = wanted_output(signature, &output.name, place)?;
        if wanted.contains(&position) {
            return Err(wrong("is asked for twice").field(format!("{place}.name")));
        }
        wanted.push(position);
    }
    Ok(wanted)
}

fn refuse_shared_memory(parameters: &HashMap<String, InferParameter>, place: Place) -> Result<(), Problem> {
    if parameters.contains_key("shared_memory_region") {
        return Err(wrong("shared memory is not offered").field(format!("{place}.parameters.shared_memory_region")));
    }
    Ok(())
}

fn read_timeout(parameters: &HashMap<String, InferParameter>) -> Result<Option<Duration>, Problem> {
    let us = match parameters.get("timeout").and_then(|parameter| parameter.parameter_choice.as_ref()) {
        None => return Ok(None),
        Some(ParameterChoice::Int64Param(us)) => u64::try_from(*us).ok(),
        Some(ParameterChoice::Uint64Param(us)) => Some(*us),
        Some(_) => None,
    };
    let us = us.ok_or_else(|| wrong("must be a whole number of microseconds").field("parameters.timeout"))?;
    // As Triton has it, 0 is no timeout.
    Ok((us > 0).then(|| Duration::from_micros(us)))
}

fn read_tensor(input: InferInputTensor, raw: Option<Bytes>, place: Place) -> Result<Tensor, Problem> {
    let datatype = Datatype::parse(&input.datatype)
        .map_err(|fault| wrong(fault.to_string()).field(format!("{place}.datatype")))?;
    if input.shape.len() > RANK_MAX {
        return Err(wrong(format!("more than {RANK_MAX} dimensions")).field(format!("{place}.shape")));
    }
    let Some(raw) = raw else {
        return read_typed(datatype, input.shape, input.contents.unwrap_or_default(), place);
    };
    if input.contents.is_some_and(|contents| contents != InferTensorContents::default()) {
        return Err(wrong("must be empty when there are raw contents").field(format!("{place}.contents")));
    }
    decode_binary(datatype, input.shape, &raw).map_err(|fault| binary_problem(&fault, place))
}

fn read_typed(
    datatype: Datatype,
    shape: Vec<i64>,
    contents: InferTensorContents,
    place: Place,
) -> Result<Tensor, Problem> {
    let sent = elements(&contents);
    let data = match datatype {
        Datatype::Bool => Data::Bool(contents.bool_contents),
        Datatype::Uint8 => Data::Uint8(narrow(contents.uint_contents, place)?),
        Datatype::Uint16 => Data::Uint16(narrow(contents.uint_contents, place)?),
        Datatype::Uint32 => Data::Uint32(contents.uint_contents),
        Datatype::Uint64 => Data::Uint64(contents.uint64_contents),
        Datatype::Int8 => Data::Int8(narrow(contents.int_contents, place)?),
        Datatype::Int16 => Data::Int16(narrow(contents.int_contents, place)?),
        Datatype::Int32 => Data::Int32(contents.int_contents),
        Datatype::Int64 => Data::Int64(contents.int64_contents),
        Datatype::Fp32 => Data::Fp32(contents.fp32_contents),
        Datatype::Fp64 => Data::Fp64(contents.fp64_contents),
        Datatype::Bytes => Data::Bytes(texts(contents.bytes_contents, place)?),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(wrong(format!("{datatype} has no typed contents: send it in raw_input_contents"))
                .field(format!("{place}.contents")));
        }
    };
    // Elements in a field of another datatype would otherwise be dropped without a word.
    if sent != data.len() {
        return Err(
            wrong(format!("has elements in a field that is not that of {datatype}")).field(format!("{place}.contents"))
        );
    }
    let count = data.len();
    Tensor::new(shape, data)
        .ok_or_else(|| wrong(format!("{count} elements do not fill the shape")).field(format!("{place}.contents")))
}

/// How many elements there are over all fields.
fn elements(contents: &InferTensorContents) -> usize {
    contents.bool_contents.len()
        + contents.int_contents.len()
        + contents.int64_contents.len()
        + contents.uint_contents.len()
        + contents.uint64_contents.len()
        + contents.fp32_contents.len()
        + contents.fp64_contents.len()
        + contents.bytes_contents.len()
}

fn narrow<W: Copy, T: TryFrom<W>>(wide: Vec<W>, place: Place) -> Result<Vec<T>, Problem> {
    let narrow = |(index, value)| {
        let out_of_range = |_| wrong("out of the range of the datatype").field(format!("{place}.contents[{index}]"));
        T::try_from(value).map_err(out_of_range)
    };
    wide.into_iter().enumerate().map(narrow).collect()
}

fn texts(strings: Vec<Bytes>, place: Place) -> Result<Vec<Bytes>, Problem> {
    match strings.iter().position(|string| !is_text(string)) {
        None => Ok(strings),
        Some(index) => Err(wrong(BinaryFault::Text.to_string()).field(format!("{place}.contents[{index}]"))),
    }
}

fn typed(data: &Data) -> Option<InferTensorContents> {
    let mut contents = InferTensorContents::default();
    match data {
        Data::Bool(values) => contents.bool_contents.clone_from(values),
        Data::Uint8(values) => contents.uint_contents = values.iter().copied().map(u32::from).collect(),
        Data::Uint16(values) => contents.uint_contents = values.iter().copied().map(u32::from).collect(),
        Data::Uint32(values) => contents.uint_contents.clone_from(values),
        Data::Uint64(values) => contents.uint64_contents.clone_from(values),
        Data::Int8(values) => contents.int_contents = values.iter().copied().map(i32::from).collect(),
        Data::Int16(values) => contents.int_contents = values.iter().copied().map(i32::from).collect(),
        Data::Int32(values) => contents.int_contents.clone_from(values),
        Data::Int64(values) => contents.int64_contents.clone_from(values),
        Data::Fp32(values) => contents.fp32_contents.clone_from(values),
        Data::Fp64(values) => contents.fp64_contents.clone_from(values),
        Data::Bytes(strings) => contents.bytes_contents.clone_from(strings),
        Data::Fp16(_) | Data::Bf16(_) => return None,
    }
    Some(contents)
}

fn wrong(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::InvalidArgument, detail)
}
