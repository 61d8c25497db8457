//! Predictions: one request in both forms, and the answer that the example models' golden file says it must have.

use std::fs;

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use proto::inference;
use serde_json::Value;

use crate::checkout::repository;

/// The model that tests call when the choice does not matter.
pub const MODEL: &str = "breast-cancer-forest";
const PROBABILITY_TOLERANCE: f64 = 1e-5;

/// The same request in gRPC, with raw tensors, as clients send it. Only FP32 is needed here.
///
/// # Errors
/// The body is not in the inference protocol's JSON.
pub fn grpc_request(model: &str, body: &[u8]) -> anyhow::Result<inference::ModelInferRequest> {
    let request: Value = serde_json::from_slice(body).context("the request is no JSON")?;
    let input = request.pointer("/inputs/0").context("the request has no input")?;
    ensure!(input.get("datatype").and_then(Value::as_str) == Some("FP32"), "only FP32 inputs");
    let shape = input.get("shape").and_then(Value::as_array).context("no shape")?;
    let data = input.get("data").and_then(Value::as_array).context("no data")?;
    #[expect(clippy::cast_possible_truncation, reason = "the values are FP32 written in decimal")]
    let raw: Vec<u8> = data.iter().filter_map(Value::as_f64).flat_map(|value| (value as f32).to_le_bytes()).collect();
    Ok(inference::ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![inference::model_infer_request::InferInputTensor {
            name: input.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            datatype: "FP32".into(),
            shape: shape.iter().filter_map(Value::as_i64).collect(),
            ..Default::default()
        }],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    })
}

/// Compares an answer to the first row of [`MODEL`]'s golden example with what that file says: labels exact.
///
/// # Errors
/// It differs.
pub fn expect_golden(body: &[u8]) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
    let outputs = answer.get("outputs").and_then(Value::as_array).context("an answer without outputs")?;
    for expected in golden_outputs()? {
        let name = output_name(&expected)?;
        let got = outputs.iter().find(|got| got.get("name") == expected.get("name"));
        compare(&expected, &numbers(got.with_context(|| format!("no output {name} in {answer}"))?)?)?;
    }
    Ok(())
}

/// The same of a gRPC answer, whose message comes after five bytes of framing.
///
/// # Errors
/// It differs.
pub fn expect_golden_grpc(body: &[u8]) -> anyhow::Result<()> {
    let message = inference::ModelInferResponse::decode(body.get(5..).context("no message")?)?;
    for expected in golden_outputs()? {
        let name = output_name(&expected)?;
        let index = message.outputs.iter().position(|output| output.name == name);
        let index = index.with_context(|| format!("no output {name}"))?;
        let raw = message.raw_output_contents.get(index).with_context(|| format!("no content of {name}"))?;
        compare(&expected, &raw_numbers(&expected, raw)?)?;
    }
    Ok(())
}

fn golden_outputs() -> anyhow::Result<Vec<Value>> {
    let path = repository().join("examples/models").join(MODEL).join("2/golden.json");
    let golden: Value = serde_json::from_slice(&fs::read(&path)?).with_context(|| path.display().to_string())?;
    let expected = golden.get("outputs").and_then(Value::as_array).context("golden outputs")?;
    ensure!(!expected.is_empty(), "the golden example has no outputs");
    Ok(expected.clone())
}

fn output_name(output: &Value) -> anyhow::Result<&str> {
    output.get("name").and_then(Value::as_str).context("an output without name")
}

/// The first row of an output of the golden example with what came.
fn compare(expected: &Value, got: &[f64]) -> anyhow::Result<()> {
    let name = output_name(expected)?;
    let rows = expected.pointer("/shape/0").and_then(Value::as_u64).context("an output without shape")?;
    let data = numbers(expected)?;
    let row = data.len() / usize::try_from(rows)?;
    let tolerance = if name == "label" { 0.0 } else { PROBABILITY_TOLERANCE };
    let is_near = got.iter().zip(&data).all(|(got, expected)| (got - expected).abs() <= tolerance);
    ensure!(got.len() == row && is_near, "{name}: expected the first {row} of {data:?}, got {got:?}");
    Ok(())
}

fn numbers(output: &Value) -> anyhow::Result<Vec<f64>> {
    let data = output.get("data").and_then(Value::as_array).context("an output without data")?;
    data.iter().map(|value| value.as_f64().context("an output that is no number")).collect()
}

/// Raw tensors are little-endian. Only the types of the forest's outputs are needed here.
fn raw_numbers(expected: &Value, raw: &[u8]) -> anyhow::Result<Vec<f64>> {
    #[expect(clippy::cast_precision_loss, reason = "labels are far below 2^52")]
    let label = |bytes: &[u8]| Some(i64::from_le_bytes(bytes.try_into().ok()?) as f64);
    let probability = |bytes: &[u8]| Some(f64::from(f32::from_le_bytes(bytes.try_into().ok()?)));
    let values: Option<Vec<f64>> = match expected.get("datatype").and_then(Value::as_str) {
        Some("INT64") => raw.chunks(8).map(label).collect(),
        Some("FP32") => raw.chunks(4).map(probability).collect(),
        other => bail!("an output of {other:?}"),
    };
    values.context("a tensor is cut off")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(label: i64, probability: f64) -> Vec<u8> {
        let label = json!({ "name": "label", "data": [label] });
        let probabilities = json!({ "name": "probabilities", "data": [probability, 1.0 - probability] });
        json!({ "outputs": [label, probabilities] }).to_string().into_bytes()
    }

    #[test]
    fn only_the_golden_answer_is_golden() {
        expect_golden(&answer(0, 1.0)).unwrap();
        expect_golden(&answer(0, 0.999_995)).unwrap();
        for wrong in [answer(1, 1.0), answer(0, 0.99), br#"{"outputs":[]}"#.to_vec(), b"".to_vec()] {
            expect_golden(&wrong).unwrap_err();
        }
    }
}
