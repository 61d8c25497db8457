//! Golden examples: inputs with the outputs that the model gave when it was made, compared before it serves.
//!
//! This is what catches an engine that computes something else than the training did; numbers may differ by the stated
//! tolerance (absolute, or relative for values beyond 1), everything else must be equal.

mod file;
mod writing;

use crate::{
    fault::{LoadFault, Reason},
    signature::Signature,
    tensor::{Data, Tensor},
};
use file::{GoldenFile, Side};
pub(crate) use writing::text;

/// The longest `golden.json` that is read.
pub const GOLDEN_BYTES_MAX: u64 = 16 << 20;

/// One set of inputs with its outputs, both in the order of the signature.
#[derive(Debug)]
pub(crate) struct Golden {
    pub(crate) inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    tolerance: f64,
}

// === impl Golden ===

impl Golden {
    /// Reads the text of a `golden.json`.
    pub(crate) fn parse(text: &[u8], signature: &Signature) -> Result<Self, LoadFault> {
        Self::read(text, signature).map_err(|detail| LoadFault::new(Reason::Golden, format!("golden.json: {detail}")))
    }

    fn read(text: &[u8], signature: &Signature) -> Result<Self, String> {
        let file = GoldenFile::parse(text)?;
        let inputs = file::tensors(Side::Inputs, &file.inputs, &signature.inputs)?;
        let outputs = file::tensors(Side::Outputs, &file.outputs, &signature.outputs)?;
        if let Some(index) = outputs.iter().position(|output| output.data().is_empty()) {
            return Err(format!("outputs[{index}]: has no elements, so it proves nothing"));
        }
        Ok(Self { inputs, outputs, tolerance: file.tolerance })
    }

    /// Compares what the model gave, in the order of the signature.
    pub(crate) fn compare(&self, signature: &Signature, outputs: &[Tensor]) -> Result<(), LoadFault> {
        for ((spec, wanted), got) in signature.outputs.iter().zip(&self.outputs).zip(outputs) {
            compare(wanted, got, self.tolerance).map_err(|detail| {
                LoadFault::new(
                    Reason::Golden,
                    format!("the model does not give its golden output {:?}: {detail}", spec.name),
                )
            })?;
        }
        Ok(())
    }
}

fn compare(wanted: &Tensor, got: &Tensor, tolerance: f64) -> Result<(), String> {
    if wanted.shape() != got.shape() {
        return Err(format!("its shape is {:?}, not {:?}", got.shape(), wanted.shape()));
    }
    let first = match (wanted.data(), got.data()) {
        (Data::Fp32(wanted), Data::Fp32(got)) => distant(wanted, got, tolerance),
        (Data::Fp64(wanted), Data::Fp64(got)) => distant(wanted, got, tolerance),
        (Data::Fp16(wanted), Data::Fp16(got)) => distant(wanted, got, tolerance),
        (Data::Bf16(wanted), Data::Bf16(got)) => distant(wanted, got, tolerance),
        (wanted, got) if wanted == got => None,
        _ => return Err("the values differ".to_owned()),
    };
    match first {
        None => Ok(()),
        Some((index, distance)) => {
            Err(format!("element {index} is off by {distance:e}, more than the tolerance {tolerance:e}"))
        }
    }
}

/// The first pair that is further apart than allowed. NaN is never near anything.
fn distant<T: Copy + Into<f64>>(wanted: &[T], got: &[T], tolerance: f64) -> Option<(usize, f64)> {
    let pairs = wanted.iter().zip(got).map(|(wanted, got)| ((*wanted).into(), (*got).into()));
    pairs.enumerate().find_map(|(index, (wanted, got)): (usize, (f64, f64))| {
        let distance = (wanted - got).abs();
        let near = distance <= tolerance * wanted.abs().max(1.0);
        (!near).then_some((index, distance))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{signature::TensorSpec, tensor::Datatype};

    fn signature() -> Signature {
        let spec =
            |name: &str, datatype| TensorSpec { name: name.to_owned(), datatype, shape: vec![-1], columns: vec![] };
        Signature {
            inputs: vec![spec("x", Datatype::Fp32)],
            outputs: vec![spec("label", Datatype::Int64), spec("p", Datatype::Fp32)],
        }
    }

    const GOLDEN: &str = r#"{
        "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}],
        "outputs": [
            {"name": "p", "shape": [2], "datatype": "FP32", "data": [0.25, 0.75]},
            {"name": "label", "shape": [2], "datatype": "INT64", "data": [0, 1]}
        ],
        "tolerance": 1e-5
    }"#;

    fn outputs(labels: Vec<i64>, probabilities: Vec<f32>) -> Vec<Tensor> {
        let tensor = |data: Data| Tensor::new(vec![i64::try_from(data.len()).unwrap()], data).unwrap();
        vec![tensor(Data::Int64(labels)), tensor(Data::Fp32(probabilities))]
    }

    #[test]
    fn outputs_within_the_tolerance_pass() {
        let golden = Golden::parse(GOLDEN.as_bytes(), &signature()).unwrap();
        let judge = |labels: &[i64], probabilities: &[f32]| {
            golden.compare(&signature(), &outputs(labels.to_vec(), probabilities.to_vec()))
        };
        assert!(judge(&[0, 1], &[0.250_001, 0.75]).is_ok());
        assert!(judge(&[0, 1], &[0.2502, 0.75]).unwrap_err().to_string().contains("element 0"));
        assert!(judge(&[0, 1], &[0.25, f32::NAN]).unwrap_err().to_string().contains("element 1"));
        assert!(judge(&[0, 0], &[0.25, 0.75]).unwrap_err().to_string().contains("label"));
        assert!(judge(&[0], &[0.25]).unwrap_err().to_string().contains("shape"));
    }

    #[test]
    fn an_incomplete_file_is_refused() {
        let fault = |from: &str, to: &str| Golden::read(GOLDEN.replace(from, to).as_bytes(), &signature()).unwrap_err();
        assert!(fault("\"label\"", "\"other\"").contains("outputs[1]"));
        assert!(fault("INT64", "INT32").contains("INT64"));
        assert!(
            fault(
                r#""shape": [2], "datatype": "INT64", "data": [0, 1]"#,
                r#""shape": [0], "datatype": "INT64", "data": []"#
            )
            .contains("outputs[0]: has no elements")
        );
        assert!(fault("\"tolerance\": 1e-5", "\"tolerance\": 2").contains("tolerance"));
        assert!(fault(",\n        \"tolerance\": 1e-5", "").contains("tolerance"));
    }
}
