//! Shapes that a model file does not say: of inputs what the sample has, of outputs what was computed.

use engine::{Inspection, TensorSpec, tensor::Tensor};

use super::sample::Sample;

/// An input has the shape of the sample's array, or is a matrix with its columns, if there is one such input and no other.
pub(super) fn fill_inputs(inspection: &mut Inspection, sample: Option<&Sample>) -> Result<(), String> {
    let is_open = |spec: &TensorSpec| inspection.open_ranks.contains(&spec.name);
    let Some(name) = inspection.signature.inputs.iter().find(|spec| is_open(spec)).map(|spec| spec.name.clone()) else {
        return Ok(());
    };
    let remedy = "export it with the shape of its inputs";
    let [input] = &mut *inspection.signature.inputs else {
        return Err(format!("the file does not say how many dimensions the input {name:?} has; {remedy}"));
    };
    input.shape = sample.and_then(Sample::shape).ok_or_else(|| {
        format!("the file does not say how many dimensions the input {name:?} has: give rows as CSV, .npy or .parquet with --sample, or {remedy}")
    })?;
    Ok(())
}

/// An output has the dimensions that it had, and where it had as many rows as the inputs, it has any number.
pub(super) fn fill_outputs(inspection: &mut Inspection, inputs: &[Tensor], outputs: &[Tensor]) {
    let has_batch = inspection.signature.inputs.iter().any(|spec| spec.shape.first() == Some(&-1));
    let rows = inputs.iter().find_map(|tensor| tensor.shape().first()).filter(|_| has_batch);
    for (spec, tensor) in inspection.signature.outputs.iter_mut().zip(outputs) {
        if inspection.open_ranks.contains(&spec.name) {
            spec.shape = tensor.shape().to_vec();
            if let Some(first) = spec.shape.first_mut().filter(|first| Some(&**first) == rows) {
                *first = -1;
            }
        }
    }
}
