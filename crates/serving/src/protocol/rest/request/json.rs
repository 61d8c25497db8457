//! The JSON part of an inference request, read as it was sent.

use std::{borrow::Cow, time::Duration};

use problem::Problem;

use crate::protocol::{
    json::{Fault, Reader, ValueKind},
    wire::{Parameter, TensorObject, fill, read_parameters, read_tensor},
};

/// The JSON part as it was sent.
#[derive(Default)]
pub(super) struct JsonPart<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) inputs: Option<Vec<TensorObject<'a>>>,
    pub(super) outputs: Option<Vec<OutputObject<'a>>>,
    pub(super) binary_output: bool,
    pub(super) timeout: Option<Duration>,
}

pub(super) struct OutputObject<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) binary: Option<bool>,
}

pub(super) fn read_json(json: &[u8]) -> Result<JsonPart<'_>, Problem> {
    let mut body = JsonPart::default();
    let mut reader = Reader::new(json);
    read_body(&mut reader, &mut body)?;
    Ok(body)
}

fn read_body<'a>(reader: &mut Reader<'a>, body: &mut JsonPart<'a>) -> Result<(), Fault> {
    let mut parameters = None;
    reader.expect(ValueKind::Object).map_err(Fault::of_body)?;
    reader.object(|reader, key| match &*key {
        // What clients write for what they leave out.
        "id" | "outputs" | "parameters" if reader.null()? => Ok(()),
        "id" => fill(&mut body.id, "id", || reader.string()),
        "inputs" => fill(&mut body.inputs, "inputs", || {
            let mut inputs = Vec::with_capacity(4);
            reader.array(|reader, index| {
                inputs.push(read_tensor(reader).map_err(|fault| fault.index(index))?);
                Ok(())
            })?;
            Ok(inputs)
        }),
        "outputs" => fill(&mut body.outputs, "outputs", || {
            let mut outputs = Vec::with_capacity(4);
            reader.array(|reader, index| {
                outputs.push(read_output(reader).map_err(|fault| fault.index(index))?);
                Ok(())
            })?;
            Ok(outputs)
        }),
        "parameters" => fill(&mut parameters, "parameters", || {
            read_request_parameters(reader, &mut body.timeout, &mut body.binary_output)
        }),
        _ => reader.skip().map(drop).map_err(|fault| fault.key(key.into_owned())),
    })?;
    reader.end()
}

fn read_output<'a>(reader: &mut Reader<'a>) -> Result<OutputObject<'a>, Fault> {
    let (mut name, mut binary, mut parameters) = (None, None, None);
    reader.object(|reader, key| match &*key {
        "parameters" if reader.null()? => Ok(()),
        "name" => fill(&mut name, "name", || reader.string()),
        "parameters" => fill(&mut parameters, "parameters", || read_output_parameters(reader, &mut binary)),
        _ => reader.skip().map(drop).map_err(|fault| fault.key(key.into_owned())),
    })?;
    Ok(OutputObject { name: name.ok_or_else(|| Fault::value("is missing").key("name"))?, binary })
}

fn read_output_parameters(reader: &mut Reader<'_>, binary: &mut Option<bool>) -> Result<(), Fault> {
    read_parameters(reader, |key, value| match (key, value) {
        ("binary_data", Parameter::Bool(value)) => {
            *binary = Some(value);
            Ok(())
        }
        ("binary_data", _) => Err(Fault::value("must be true or false")),
        ("classification", _) => Err(Fault::value("classification is not offered")),
        ("shared_memory_region", _) => Err(Fault::value("shared memory is not offered")),
        _ => Ok(()),
    })
}

fn read_request_parameters(
    reader: &mut Reader<'_>,
    timeout: &mut Option<Duration>,
    binary_output: &mut bool,
) -> Result<(), Fault> {
    read_parameters(reader, |key, value| match (key, value) {
        ("binary_data_output", Parameter::Bool(value)) => {
            *binary_output = value;
            Ok(())
        }
        ("binary_data_output", _) => Err(Fault::value("must be true or false")),
        ("timeout", Parameter::Number(text)) => {
            let us: u64 = text.parse().map_err(|_| Fault::value("must be a whole number of microseconds"))?;
            // As Triton has it, 0 is no timeout.
            *timeout = (us > 0).then(|| Duration::from_micros(us));
            Ok(())
        }
        ("timeout", _) => Err(Fault::value("must be a whole number of microseconds")),
        _ => Ok(()),
    })
}
