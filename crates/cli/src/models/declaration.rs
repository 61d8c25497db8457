//! The files that describe a version in MLflow: `MLmodel`, which MLflow's own clients read, and `rampart.toml`, which says what it cannot.

use serde_json::{Value, json};
use toml_edit::{DocumentMut, value};

use super::{
    folder,
    inspect::{Inspected, Tensor},
};

/// What serving reads beside `MLmodel`.
pub(crate) const DECLARATION: &str = "rampart.toml";

/// The text of an `MLmodel` of a logged model.
pub(crate) fn mlmodel(model_id: &str, inspected: &Inspected) -> String {
    let tensors = |tensors: &[Tensor]| {
        // YAML's single quotes know one escape.
        Value::from(tensors.iter().map(tensor).collect::<Vec<_>>()).to_string().replace('\'', "''")
    };
    let (inputs, outputs) = (tensors(&inspected.inputs), tensors(&inspected.outputs));
    format!(
        "artifact_path: models:/{model_id}\n\
         flavors:\n  onnx:\n    code: null\n    data: model.onnx\n    providers:\n    - CPUExecutionProvider\n\
         model_id: {model_id}\n\
         signature:\n  inputs: '{inputs}'\n  outputs: '{outputs}'\n  params: null\n"
    )
}

/// The text of a `rampart.toml`.
pub(crate) fn declaration(inspected: &Inspected) -> anyhow::Result<String> {
    let mut document = DocumentMut::new();
    document.insert("inputs", folder::tensors(&inspected.inputs)?);
    document.insert("outputs", folder::tensors(&inspected.outputs)?);
    if !inspected.data.is_empty() {
        let digests = inspected.data.iter().map(|(name, digest)| (&**name, value(&**digest)));
        document.insert("data", toml_edit::Item::Table(digests.collect()));
    }
    Ok(document.to_string())
}

fn tensor(tensor: &Tensor) -> Value {
    let spec = json!({ "dtype": dtype(&tensor.datatype), "shape": tensor.shape });
    json!({ "type": "tensor", "tensor-spec": spec, "name": tensor.name })
}

/// numpy's name of a datatype. It has none for BF16, of which MLflow knows as little; `rampart.toml` does.
fn dtype(datatype: &str) -> String {
    match datatype {
        "BYTES" => "str".to_owned(),
        "FP16" => "float16".to_owned(),
        "FP32" | "BF16" => "float32".to_owned(),
        "FP64" => "float64".to_owned(),
        plain => plain.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected() -> Inspected {
        let tensor = |name: &str, datatype: &str, columns: Value| json!({ "name": name, "datatype": datatype, "shape": [-1, 2], "columns": columns });
        serde_json::from_value(json!({
            "sha256": "", "digest": "", "data": { "a b.data": "00" }, "golden": {},
            "inputs": [tensor("it's", "FP32", json!(["age", "fare"]))], "outputs": [tensor("y", "BYTES", json!([]))],
        }))
        .unwrap()
    }

    #[test]
    fn mlmodel_quotes_its_signature() {
        let text = mlmodel("m-1", &inspected());
        let quoted = text.lines().find_map(|line| line.strip_prefix("  inputs: '")?.strip_suffix('\'')).unwrap();
        let inputs: Value = serde_json::from_str(&quoted.replace("''", "'")).unwrap();
        let spec = json!({ "dtype": "float32", "shape": [-1, 2] });
        assert_eq!(inputs, json!([{ "type": "tensor", "tensor-spec": spec, "name": "it's" }]));
        assert!(quoted.contains("it''s"), "{quoted}");
        assert!(text.contains(r#""dtype":"str""#), "{text}");
    }

    #[test]
    fn the_declaration_has_columns_and_weights() {
        let text = declaration(&inspected()).unwrap();
        let read: DocumentMut = text.parse().unwrap();
        let columns = read.get("inputs").and_then(|it| it.get(0)?.get("columns")).and_then(toml_edit::Item::as_array);
        assert_eq!(columns.unwrap().len(), 2, "{text}");
        let digest = read.get("data").and_then(|it| it.get("a b.data")).and_then(toml_edit::Item::as_str);
        assert_eq!(digest, Some("00"), "{text}");
    }
}
