//! An inference request of the REST protocol, read into tensors in one pass.

mod json;

use std::borrow::Cow;

use bytes::Bytes;
use engine::{
    Signature,
    tensor::{Datatype, decode_binary},
};
use problem::{Kind, Problem};

use crate::{
    inference::{Call, Inputs, Place, wanted_output},
    protocol::{binary_problem, json::NotJson, wire::Contents},
};
use json::{JsonPart, OutputObject, read_json};

/// The header that says where the JSON of a body ends and its binary tensors begin.
pub(crate) const JSON_LENGTH_HEADER: &str = "inference-header-content-length";

/// A request, checked against the model's signature.
#[derive(Debug)]
pub(crate) struct InferRequest {
    /// Echoed in the answer.
    pub(crate) id: Option<String>,
    pub(crate) call: Call,
    /// For each wanted output whether it goes out in binary.
    pub(crate) binary: Vec<bool>,
}

// === impl InferRequest ===

impl InferRequest {
    /// Reads a body. `json_length` is the header's value, if there was one.
    pub(crate) fn read(mut body: Bytes, json_length: Option<usize>, signature: &Signature) -> Result<Self, Problem> {
        let Some(json_length) = json_length else {
            return Self::assemble(read_json(&body)?, None, signature);
        };
        if json_length == 0 {
            return Self::raw(&body, signature);
        }
        if json_length > body.len() {
            let detail = format!("says {json_length}, but the body has {} bytes", body.len());
            return Err(Problem::new(Kind::InvalidArgument, detail).field(JSON_LENGTH_HEADER));
        }
        let json = body.split_to(json_length);
        Self::assemble(read_json(&json)?, Some(body), signature)
    }

    fn assemble(body: JsonPart<'_>, mut binary: Option<Bytes>, signature: &Signature) -> Result<Self, Problem> {
        let sent = body.inputs.ok_or_else(|| {
            Problem::new(Kind::InvalidArgument, "is missing; records by feature name go to /api/models/…/predict")
                .field("inputs")
        })?;
        let mut inputs = Inputs::new(signature);
        for (index, tensor) in sent.into_iter().enumerate() {
            let place = Place("inputs", index);
            let contents = match tensor.contents {
                Contents::Json(contents) => contents,
                Contents::Binary(size) => {
                    let raw = take_binary(binary.as_mut(), size, place)?;
                    decode_binary(tensor.datatype, tensor.shape, &raw).map_err(|fault| binary_problem(&fault, place))?
                }
            };
            inputs.put(&tensor.name, contents, place)?;
        }
        if let Some(rest) = binary.filter(|rest| !rest.is_empty()) {
            let detail = format!("{} bytes follow the last binary input", rest.len());
            return Err(Problem::new(Kind::InvalidArgument, detail));
        }
        let (wanted, binary) = outputs(body.outputs, body.binary_output, signature)?;
        let call = Call { inputs: inputs.finish()?, wanted, timeout: body.timeout };
        Ok(Self { id: body.id.map(Cow::into_owned), call, binary })
    }

    /// A body that is nothing but one tensor: its shape follows from its length, everything comes back in binary.
    fn raw(body: &Bytes, signature: &Signature) -> Result<Self, Problem> {
        let begins_as_json = body.first() == Some(&b'{');
        let refuse = |detail: &str| {
            let hint =
                if begins_as_json { "; the body begins as JSON does, which is sent without this header" } else { "" };
            Problem::new(Kind::InvalidArgument, format!("{detail}{hint}")).field(JSON_LENGTH_HEADER)
        };
        let [input] = &*signature.inputs else {
            return Err(refuse("0 asks for a raw binary request, which needs a model with one input"));
        };
        let size = input
            .datatype
            .element_size()
            .ok_or_else(|| refuse("0 asks for a raw binary request, which BYTES inputs do not have"))?;
        let open = input.shape.iter().filter(|dimension| **dimension == -1).count();
        let fixed: usize = input.shape.iter().filter_map(|dimension| usize::try_from(*dimension).ok()).product();
        let elements = body.len() / size;
        let length = elements.checked_div(fixed).unwrap_or(0);
        if open > 1 || (open == 0 && length != 1) {
            return Err(refuse(
                "0 asks for a raw binary request, but the input's shape does not follow from the body's length",
            ));
        }
        let length = i64::try_from(length).map_err(|_| refuse("too many elements"))?;
        let shape = input.shape.iter().map(|dimension| if *dimension == -1 { length } else { *dimension }).collect();
        let tensor = decode_binary(input.datatype, shape, body).map_err(|fault| match begins_as_json {
            true => refuse(&format!("0 asks for a raw binary request, and the body is none: {fault}")),
            false => binary_problem(&fault, "the body"),
        })?;
        let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
        let binary = vec![true; wanted.len()];
        Ok(Self { id: None, call: Call { inputs: vec![tensor], wanted, timeout: None }, binary })
    }
}

/// Which outputs to compute, and which of them go out in binary.
fn outputs(
    sent: Option<Vec<OutputObject<'_>>>,
    binary_output: bool,
    signature: &Signature,
) -> Result<(Vec<usize>, Vec<bool>), Problem> {
    let all = || (0..signature.outputs.len()).map(|position| (position, binary_output)).collect::<Vec<_>>();
    let chosen = match sent {
        None => all(),
        Some(sent) if sent.is_empty() => all(),
        Some(sent) => {
            let mut chosen: Vec<(usize, bool)> = Vec::with_capacity(sent.len());
            for (index, output) in sent.iter().enumerate() {
                let place = Place("outputs", index);
                let position = wanted_output(signature, &output.name, place)?;
                if chosen.iter().any(|(other, _)| *other == position) {
                    return Err(
                        Problem::new(Kind::InvalidArgument, "is asked for twice").field(format!("{place}.name"))
                    );
                }
                chosen.push((position, output.binary.unwrap_or(binary_output)));
            }
            chosen
        }
    };
    for (position, binary) in &chosen {
        let datatype = signature.outputs.get(*position).map_or(Datatype::Fp32, |spec| spec.datatype);
        if !binary && !datatype.has_json_form() {
            let name = signature.outputs.get(*position).map_or("", |spec| &spec.name);
            return Err(Problem::new(Kind::InvalidArgument, format!("{name:?}: {}", NotJson::Datatype(datatype)))
                .field("outputs"));
        }
    }
    Ok(chosen.into_iter().unzip())
}

fn take_binary(binary: Option<&mut Bytes>, size: usize, place: Place) -> Result<Bytes, Problem> {
    let problem = |detail: String| {
        Problem::new(Kind::InvalidArgument, detail).field(format!("{place}.parameters.binary_data_size"))
    };
    let Some(binary) = binary else {
        return Err(problem(format!(
            "binary tensors need the header {JSON_LENGTH_HEADER}, the bytes of the JSON before them"
        )));
    };
    if size > binary.len() {
        return Err(problem(format!("says {size}, but only {} bytes are left", binary.len())));
    }
    Ok(binary.split_to(size))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::{TensorSpec, tensor::Data};
    use proptest::prelude::*;

    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
            columns: vec![],
        };
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[-1, 2]), spec("n", Datatype::Int64, &[1])],
            outputs: vec![spec("label", Datatype::Int64, &[-1]), spec("half", Datatype::Fp16, &[-1])],
        }
    }

    const SOUND: &str = r#"{"id":"7","inputs":[
        {"name":"n","shape":[1],"datatype":"INT64","data":[5]},
        {"name":"x","shape":[1,2],"datatype":"FP32","data":[[1.5,2]]}
    ],"outputs":[{"name":"label"}],"parameters":{"timeout":2500}}"#;

    fn read(body: &str) -> Result<InferRequest, Problem> {
        InferRequest::read(Bytes::from(body.to_owned()), None, &signature())
    }

    #[test]
    fn inputs_come_out_in_the_signatures_order() {
        let request = read(SOUND).unwrap();
        assert_eq!(request.id.as_deref(), Some("7"));
        assert_eq!(request.call.inputs[0].data(), &Data::Fp32(vec![1.5, 2.0]));
        assert_eq!(request.call.wanted, [0]);
        assert_eq!(request.call.timeout, Some(Duration::from_micros(2500)));
    }

    #[test]
    fn each_fault_names_its_field() {
        let field = |from: &str, to: &str| {
            read(&SOUND.replacen(from, to, 1)).unwrap_err().field_name().map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(field("\"n\"", "\"m\""), "inputs[0].name");
        assert_eq!(field("\"x\"", "\"n\""), "inputs[1].datatype");
        assert_eq!(field("[5]", "[5.5]"), "inputs[0].data[0]");
        assert_eq!(field("[[1.5,2]]", "[1.5]"), "inputs[1].data");
        assert_eq!(field("[1,2]", "[2,1]"), "inputs[1].data[0]");
        assert_eq!(
            field("[1,2],\"datatype\":\"FP32\",\"data\":[[1.5,2]]", "[2],\"datatype\":\"FP32\",\"data\":[1,2]"),
            "inputs[1].shape"
        );
        assert_eq!(field("FP32", "FP64"), "inputs[1].datatype");
        assert_eq!(field("\"label\"", "\"lable\""), "outputs[0].name");
        assert_eq!(field("{\"name\":\"label\"}", ""), "outputs");
        assert_eq!(field("2500", "\"x\""), "parameters.timeout");
        assert_eq!(field("\"inputs\"", "\"input\""), "inputs");
        assert_eq!(field("1.5", "NaN"), "inputs[1].data[0][0]");
    }

    /// The request of `nulls-echo-fp32.json`, with which a public client failed elsewhere.
    #[test]
    fn null_stands_for_what_is_left_out() {
        let nulls = SOUND.replacen("\"7\"", "null", 1).replacen("[{\"name\":\"label\"}]", "null", 1);
        let signature = Signature { outputs: signature().outputs[..1].to_vec(), ..signature() };
        let request =
            InferRequest::read(Bytes::from(nulls.replacen("{\"timeout\":2500}", "null", 1)), None, &signature);
        let request = request.unwrap();
        assert_eq!((request.id, request.call.timeout, &*request.call.wanted), (None, None, &[0][..]));
        let problem = read(&SOUND.replacen("[{\"name\":\"label\"}]", "[null]", 1)).unwrap_err();
        assert_eq!(problem.field_name(), Some("outputs[0]"));
    }

    #[test]
    fn a_parameter_that_is_given_twice_is_refused() {
        let problem = read(&SOUND.replacen("2500", "2500,\"timeout\":0", 1)).unwrap_err();
        assert_eq!(problem.field_name(), Some("parameters.timeout"));
        assert!(problem.message().ends_with("is given twice"), "{}", problem.message());
    }

    #[test]
    fn what_is_not_json_has_an_offset() {
        let problem = read(&SOUND.replacen("1.5", "NaN", 1)).unwrap_err();
        assert_eq!(problem.byte_offset(), SOUND.find("1.5").map(|offset| offset as u64));
        assert!(read("").unwrap_err().byte_offset().is_some());
        assert!(read("{\"inputs\":").unwrap_err().byte_offset().is_some());
        assert!(read(&format!("{SOUND} x")).unwrap_err().byte_offset().is_some());
    }

    fn binary_body(size_x: usize, tail: &[u8]) -> (Bytes, usize) {
        let json = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{{"binary_data_size":{size_x}}}}},
                {{"name":"n","shape":[1],"datatype":"INT64","data":[5]}}],"parameters":{{"binary_data_output":true}}}}"#
        );
        let length = json.len();
        let mut body = json.into_bytes();
        body.extend_from_slice(tail);
        (Bytes::from(body), length)
    }

    #[test]
    fn binary_sums_are_strict() {
        let read = |size, tail: &[u8]| {
            let (body, length) = binary_body(size, tail);
            InferRequest::read(body, Some(length), &signature())
        };
        assert!(read(8, &[0; 8]).unwrap().binary.iter().all(|binary| *binary));
        assert!(read(8, &[0; 9]).unwrap_err().message().contains("1 bytes follow"));
        assert!(read(8, &[0; 7]).unwrap_err().message().contains("only 7 bytes are left"));
        assert!(read(4, &[0; 4]).unwrap_err().message().contains("4 bytes, but this shape and datatype take 8"));
        assert!(read(usize::MAX, &[0; 8]).is_err());
        let (body, length) = binary_body(8, &[0; 8]);
        assert!(InferRequest::read(body.clone(), Some(body.len() + 1), &signature()).is_err());
        assert!(InferRequest::read(body.clone(), None, &signature()).unwrap_err().byte_offset().is_some());
        assert!(
            InferRequest::read(body.slice(..length), None, &signature())
                .unwrap_err()
                .message()
                .contains("need the header")
        );
    }

    #[test]
    fn a_raw_body_gets_its_shape_from_its_length() {
        let one = Signature { inputs: signature().inputs[..1].to_vec(), outputs: signature().outputs };
        let request = InferRequest::read(Bytes::from_static(&[0; 24]), Some(0), &one).unwrap();
        assert_eq!(request.call.inputs[0].shape(), [3, 2]);
        assert!(InferRequest::read(Bytes::from_static(&[0; 23]), Some(0), &one).is_err());
        assert!(InferRequest::read(Bytes::from_static(&[0; 24]), Some(0), &signature()).is_err());
        // Who sends JSON with the header of a raw body is told which header it is.
        let json =
            InferRequest::read(Bytes::from_static(b"{\"inputs\": [] }"), Some(0), &one).err().unwrap().to_string();
        assert!(json.contains(JSON_LENGTH_HEADER) && json.contains("begins as JSON does"), "{json}");
    }

    proptest! {
        /// Cut or changed anywhere, a request is a problem of the caller's or still a request; never a panic.
        #[test]
        fn malformed_requests_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), take_binary in any::<bool>()) {
            let mut body = SOUND.as_bytes().to_vec();
            let at = at.index(body.len());
            if take_binary { body.truncate(at) } else { body[at] = byte }
            if let Err(problem) = InferRequest::read(Bytes::from(body), None, &signature()) {
                prop_assert_eq!(problem.kind(), Kind::InvalidArgument);
            }
        }
    }
}
