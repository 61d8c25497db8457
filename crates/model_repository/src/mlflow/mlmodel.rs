//! `MLmodel`: what MLflow's description of a version says of its file, its inputs and its outputs.

use engine::{LoadFault, Reason, Signature, TensorSpec, tensor::Datatype};
use serde::Deserialize;

use crate::manifest::check_signature;

/// The longest `MLmodel` that is read.
pub(super) const MLMODEL_BYTES_MAX: u64 = 256 << 10;
/// The most inputs, and the most outputs.
const SPECS_MAX: usize = 256;

/// What is wanted of an `MLmodel`.
#[derive(Debug)]
pub(super) struct MlModel {
    /// The name of the model file, beside it.
    pub(super) file: String,
    /// None that can be served is no fault while there is another declaration.
    pub(super) signature: Result<Signature, LoadFault>,
}

#[derive(Deserialize)]
struct Document {
    flavors: Flavors,
    signature: Option<Texts>,
}

#[derive(Deserialize)]
struct Flavors {
    onnx: Option<Onnx>,
}

#[derive(Deserialize)]
struct Onnx {
    data: Option<String>,
}

/// JSON within the YAML.
#[derive(Deserialize)]
struct Texts {
    inputs: Option<String>,
    outputs: Option<String>,
}

#[derive(Deserialize)]
struct Column {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    #[serde(rename = "tensor-spec")]
    tensor: Option<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<i64>,
}

// === impl MlModel ===

impl MlModel {
    pub(super) fn parse(text: &[u8]) -> Result<Self, LoadFault> {
        let manifest = |detail: String| LoadFault::new(Reason::Manifest, format!("MLmodel: {detail}"));
        let text = std::str::from_utf8(text).map_err(|error| manifest(error.to_string()))?;
        let document: Document = serde_saphyr::from_str(text).map_err(|error| {
            let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
            manifest(first_line)
        })?;
        let Some(onnx) = document.flavors.onnx else {
            let detail = "MLmodel: it has no flavor onnx, and nothing else is served; log it with mlflow.onnx";
            return Err(LoadFault::new(Reason::Format, detail));
        };
        let file = onnx.data.unwrap_or_else(|| "model.onnx".to_owned());
        if !is_file_name(&file) {
            return Err(manifest(format!("flavors.onnx.data: {file:?} is not the name of a file beside MLmodel")));
        }
        let texts = document.signature.unwrap_or(Texts { inputs: None, outputs: None });
        let signature = texts
            .signature()
            .map_err(|detail| LoadFault::new(Reason::Signature, format!("MLmodel: signature.{detail}")));
        Ok(Self { file, signature })
    }
}

fn is_file_name(text: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=128).contains(&text.len()) && !text.starts_with('.') && text.chars().all(harmless)
}

fn specs(field: &str, json: Option<&str>) -> Result<Vec<TensorSpec>, String> {
    let json = json.ok_or_else(|| format!("{field}: is missing; log the model with a signature of named tensors, or have `rampart models adopt` declare one"))?;
    let columns: Vec<Column> = serde_json::from_str(json).map_err(|error| format!("{field}: {error}"))?;
    if columns.len() > SPECS_MAX {
        return Err(format!("{field}: {}, more than {SPECS_MAX}", columns.len()));
    }
    let spec = |(index, column): (usize, Column)| column.spec().map_err(|detail| format!("{field}[{index}]: {detail}"));
    columns.into_iter().enumerate().map(spec).collect()
}

// === impl Texts ===

impl Texts {
    fn signature(&self) -> Result<Signature, String> {
        let signature = Signature {
            inputs: specs("inputs", self.inputs.as_deref())?,
            outputs: specs("outputs", self.outputs.as_deref())?,
        };
        check_signature(&signature).map(|()| signature)
    }
}

// === impl Column ===

impl Column {
    fn spec(self) -> Result<TensorSpec, String> {
        let Some(tensor) = self.tensor.filter(|_| self.kind == "tensor") else {
            return Err(format!("its type is {:?}, but an ONNX model takes and gives tensors", self.kind));
        };
        let name = self.name.ok_or("it has no name; it must have the one in the ONNX file")?;
        let datatype =
            datatype(&tensor.dtype).ok_or_else(|| format!("{:?} is no dtype that can be served", tensor.dtype))?;
        Ok(TensorSpec { name, datatype, shape: tensor.shape, columns: Vec::new() })
    }
}

/// numpy's names. Strings have a length there, which the protocol does not know.
fn datatype(dtype: &str) -> Option<Datatype> {
    let name = match dtype {
        "bool" => "BOOL",
        "uint8" => "UINT8",
        "uint16" => "UINT16",
        "uint32" => "UINT32",
        "uint64" => "UINT64",
        "int8" => "INT8",
        "int16" => "INT16",
        "int32" => "INT32",
        "int64" => "INT64",
        "float16" => "FP16",
        "float32" => "FP32",
        "float64" => "FP64",
        "str" | "object" => "BYTES",
        _ if dtype.starts_with("<U") => "BYTES",
        _ => return None,
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What MLflow 3.17 writes.
    const MLMODEL: &str = r#"artifact_path: models:/m-1
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.19.0
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.13.5
mlflow_version: 3.17.0
model_id: m-1
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 64]},
    "name": "input"}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}, "name":
    "label"}, {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 10]},
    "name": "probabilities"}]'
  params: null
utc_time_created: '2026-11-20 10:00:00.000000'
"#;

    fn fault(from: &str, to: &str) -> LoadFault {
        assert!(MLMODEL.contains(from), "{from}");
        MlModel::parse(MLMODEL.replacen(from, to, 1).as_bytes()).and_then(|model| model.signature).unwrap_err()
    }

    #[test]
    fn file_and_signature_are_read() {
        let model = MlModel::parse(MLMODEL.as_bytes()).unwrap();
        assert_eq!(model.file, "model.onnx");
        let signature = model.signature.unwrap();
        assert_eq!(signature.inputs[0].to_string(), "\"input\" FP32 [-1,64]");
        assert_eq!(signature.outputs[1].to_string(), "\"probabilities\" FP32 [-1,10]");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_place() {
        for (from, to, reason, words) in [
            ("  onnx:", "  sklearn:", Reason::Format, "no flavor onnx"),
            ("data: model.onnx", "data: ../../model.onnx", Reason::Manifest, "flavors.onnx.data"),
            ("data: model.onnx", "data: .hidden", Reason::Manifest, "flavors.onnx.data"),
            ("signature:", "unsigned:", Reason::Signature, "signature.inputs: is missing"),
            ("float32", "complex64", Reason::Signature, "complex64"),
            ("\"tensor\"", "\"double\"", Reason::Signature, "its type is \"double\""),
            (",\n    \"name\": \"input\"", "", Reason::Signature, "inputs[0]: it has no name"),
            ("[-1, 64]", "[-2, 64]", Reason::Signature, "inputs[0].shape"),
            ("probabilities", "label", Reason::Signature, "declared twice"),
            ("flavors:", "\tflavors:", Reason::Manifest, "MLmodel"),
        ] {
            let fault = fault(from, to);
            assert_eq!(fault.reason, reason, "{to}: {fault}");
            assert!(fault.detail.contains(words) && !fault.detail.contains('\n'), "{to}: {fault}");
        }
    }

    /// Nine levels of nine references each, which is a gigabyte for who resolves them all.
    #[test]
    fn a_document_that_explodes_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let below = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert_eq!(MlModel::parse((bomb + MLMODEL).as_bytes()).unwrap_err().reason, Reason::Manifest);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _judged = MlModel::parse(&bytes);
        }

        #[test]
        fn malformed_files_never_panic(at in 0..MLMODEL.len(), byte in any::<u8>()) {
            let mut bytes = MLMODEL.as_bytes().to_vec();
            bytes[at] = byte;
            let _judged = MlModel::parse(&bytes);
        }
    }
}
