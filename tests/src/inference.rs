//! Predictions: one request in both forms, and the answer that the example models' golden file says it must have.

use std::fs;

use anyhow::{Context as _, ensure};
use proto::inference;
use serde_json::Value;

use crate::platform::repository;

/// The model that tests call when any will do.
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
    let path = repository().join("examples/models").join(MODEL).join("2/golden.json");
    let golden: Value = serde_json::from_slice(&fs::read(&path)?).with_context(|| path.display().to_string())?;
    let answer: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
    let expected = golden.get("outputs").and_then(Value::as_array).context("golden outputs")?;
    ensure!(!expected.is_empty(), "the golden example has no outputs");
    for output in expected {
        let name = output.get("name").and_then(Value::as_str).context("an output without name")?;
        let rows = output.pointer("/shape/0").and_then(Value::as_u64).context("an output without shape")?;
        let data = numbers(output)?;
        let row = data.len() / usize::try_from(rows)?;
        let outputs = answer.get("outputs").and_then(Value::as_array).context("an answer without outputs")?;
        let got = outputs.iter().find(|got| got.get("name") == output.get("name"));
        let got = numbers(got.with_context(|| format!("no output {name} in {answer}"))?)?;
        let tolerance = if name == "label" { 0.0 } else { PROBABILITY_TOLERANCE };
        let is_near = got.iter().zip(&data).all(|(got, expected)| (got - expected).abs() <= tolerance);
        ensure!(got.len() == row && is_near, "{name}: expected the first {row} of {data:?}, got {got:?}");
    }
    Ok(())
}

fn numbers(output: &Value) -> anyhow::Result<Vec<f64>> {
    let data = output.get("data").and_then(Value::as_array).context("an output without data")?;
    data.iter().map(|value| value.as_f64().context("an output that is no number")).collect()
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
