//! A `golden.json` of what a model takes and gives: every number as the shortest text that is read back to the same bits.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::file::Side;
use crate::{
    signature::{Signature, TensorSpec},
    tensor::{Data, Datatype, Tensor},
};

#[derive(Serialize)]
struct File<'a> {
    inputs: Vec<Written<'a>>,
    outputs: Vec<Written<'a>>,
    tolerance: f64,
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: &'a [i64],
    data: Elements<'a>,
}

struct Elements<'a>(&'a Data);

/// The text of a `golden.json`, or why these tensors have none, a sentence for each that has no form in it.
pub(crate) fn text(
    signature: &Signature,
    inputs: &[Tensor],
    outputs: &[Tensor],
    tolerance: f64,
) -> Result<String, Vec<String>> {
    let unwritable: Vec<String> = unwritable(&signature.inputs, inputs, Side::Inputs)
        .chain(unwritable(&signature.outputs, outputs, Side::Outputs))
        .map(|name| format!("{name:?} has a value that is no finite number, and JSON has no other"))
        .collect();
    if !unwritable.is_empty() {
        return Err(unwritable);
    }
    let inputs = written(&signature.inputs, inputs);
    let file = File { inputs, outputs: written(&signature.outputs, outputs), tolerance };
    serde_json::to_string(&file).map_err(|error| vec![error.to_string()])
}

fn unwritable<'a>(specs: &'a [TensorSpec], tensors: &'a [Tensor], side: Side) -> impl Iterator<Item = &'a str> {
    let pairs = specs.iter().zip(tensors);
    pairs.filter(move |(_, tensor)| !can_be_written(tensor.data(), side)).map(|(spec, _)| &*spec.name)
}

fn written<'a>(specs: &'a [TensorSpec], tensors: &'a [Tensor]) -> Vec<Written<'a>> {
    let write = |(spec, tensor): (&'a TensorSpec, &'a Tensor)| {
        let data = Elements(tensor.data());
        Written { name: &spec.name, datatype: tensor.data().datatype(), shape: tensor.shape(), data }
    };
    specs.iter().zip(tensors).map(write).collect()
}

/// NaN is written as null, which inputs may have.
fn can_be_written(data: &Data, side: Side) -> bool {
    let may_miss = side == Side::Inputs;
    match data {
        Data::Fp16(values) => values.iter().all(|value| value.is_finite() || may_miss && value.is_nan()),
        Data::Bf16(values) => values.iter().all(|value| value.is_finite() || may_miss && value.is_nan()),
        Data::Fp32(values) => values.iter().all(|value| value.is_finite() || may_miss && value.is_nan()),
        Data::Fp64(values) => values.iter().all(|value| value.is_finite() || may_miss && value.is_nan()),
        _ => true,
    }
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Data::Bool(values) => values.serialize(serializer),
            Data::Uint8(values) => serializer.collect_seq(values),
            Data::Uint16(values) => values.serialize(serializer),
            Data::Uint32(values) => values.serialize(serializer),
            Data::Uint64(values) => values.serialize(serializer),
            Data::Int8(values) => values.serialize(serializer),
            Data::Int16(values) => values.serialize(serializer),
            Data::Int32(values) => values.serialize(serializer),
            Data::Int64(values) => values.serialize(serializer),
            Data::Fp16(values) => serializer.collect_seq(values.iter().map(|value| value.to_f32())),
            Data::Bf16(values) => serializer.collect_seq(values.iter().map(|value| value.to_f32())),
            Data::Fp32(values) => values.serialize(serializer),
            Data::Fp64(values) => values.serialize(serializer),
            Data::Bytes(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    // A string of ONNX is UTF-8 (see `is_text`).
                    list.serialize_element(&String::from_utf8_lossy(value))?;
                }
                list.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use half::f16;

    use super::*;
    use crate::golden::Golden;

    /// What is written is read again, and is near itself without any tolerance.
    #[test]
    fn a_written_example_is_read_again() {
        let tensors = [
            Tensor::new(vec![2], Data::Fp32(vec![0.1, -3.402_823_5e38])),
            Tensor::new(vec![1], Data::Fp16(vec![f16::from_f64(0.333)])),
            Tensor::new(vec![1, 1], Data::Bytes(vec![Bytes::from_static("é \"".as_bytes())])),
            Tensor::new(vec![], Data::Int64(vec![i64::MIN])),
            Tensor::new(vec![2], Data::Fp64(vec![5e-324, 0.1])),
        ]
        .map(Option::unwrap);
        let spec = |(index, tensor): (usize, &Tensor)| TensorSpec {
            name: format!("t{index}"),
            datatype: tensor.data().datatype(),
            shape: tensor.shape().to_vec(),
            columns: vec![],
        };
        let specs: Vec<TensorSpec> = tensors.iter().enumerate().map(spec).collect();
        let signature = Signature { inputs: specs.clone(), outputs: specs };
        let text = text(&signature, &tensors, &tensors, 0.0).unwrap();
        let golden = Golden::parse(text.as_bytes(), &signature).unwrap();
        assert_eq!(golden.inputs, tensors);
        golden.compare(&signature, &tensors).unwrap();
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let nan = [Tensor::new(vec![1], Data::Fp32(vec![f32::NAN])).unwrap()];
        let spec = TensorSpec { name: "y".to_owned(), datatype: Datatype::Fp32, shape: vec![1], columns: vec![] };
        let signature = Signature { inputs: vec![], outputs: vec![spec] };
        assert!(text(&signature, &[], &nan, 0.0).unwrap_err()[0].contains("\"y\""));
        let of_input = Signature { inputs: signature.outputs, outputs: vec![] };
        assert!(text(&of_input, &nan, &[], 0.0).unwrap().contains("\"data\":[null]"));
        let infinite = [Tensor::new(vec![1], Data::Fp32(vec![f32::INFINITY])).unwrap()];
        assert!(text(&of_input, &infinite, &[], 0.0).unwrap_err()[0].contains("\"y\""));
    }
}
