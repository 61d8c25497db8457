//! `rampart.toml`: what an `MLmodel` cannot say of a version. It lies beside it in the registry, and need not be there.
//!
//! Names and digests of the files that hold the weights (ONNX: external data), names of what a dimension counts, and a signature for a model
//! that was logged without one of named tensors.

use std::collections::BTreeMap;

use engine::{LoadFault, Reason, Signature, TensorSpec};
use serde::Deserialize;
use sha256::Sha256Digest;

use crate::manifest::{check_data, check_signature};

/// Beside `MLmodel`.
pub(super) const FILE: &str = "rampart.toml";
/// The longest that is read.
pub(super) const BYTES_MAX: u64 = 1 << 20;

/// What is declared, and nothing if there is no such file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    /// The files with weights, by their names.
    #[serde(default)]
    pub(super) data: BTreeMap<String, Sha256Digest>,
    #[serde(default)]
    inputs: Vec<TensorSpec>,
    #[serde(default)]
    outputs: Vec<TensorSpec>,
}

// === impl Declaration ===

impl Declaration {
    pub(super) fn parse(text: &[u8]) -> Result<Self, LoadFault> {
        let fault = |reason, detail: String| LoadFault::new(reason, format!("{FILE}: {detail}"));
        let text = std::str::from_utf8(text).map_err(|error| fault(Reason::Manifest, error.to_string()))?;
        let declared: Self =
            toml::from_str(text).map_err(|error| fault(Reason::Manifest, error.message().to_owned()))?;
        check_data(&declared.data).map_err(|detail| fault(Reason::Manifest, detail))?;
        if declared.has_signature() {
            let signature = Signature { inputs: declared.inputs.clone(), outputs: declared.outputs.clone() };
            check_signature(&signature).map_err(|detail| fault(Reason::Signature, detail))?;
        }
        Ok(declared)
    }

    fn has_signature(&self) -> bool {
        !(self.inputs.is_empty() && self.outputs.is_empty())
    }

    /// Its own signature, or else the one of `MLmodel`.
    pub(super) fn signature(&self, of_mlmodel: Result<Signature, LoadFault>) -> Result<Signature, LoadFault> {
        if self.has_signature() {
            Ok(Signature { inputs: self.inputs.clone(), outputs: self.outputs.clone() })
        } else {
            of_mlmodel
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<Declaration, LoadFault> {
        Declaration::parse(text.as_bytes())
    }

    #[test]
    fn its_signature_is_preferred() {
        let none = || Err(LoadFault::new(Reason::Signature, "none"));
        assert!(Declaration::default().signature(none()).is_err());
        let tensor = "{ name = \"x\", datatype = \"FP32\", shape = [-1, 2], columns = [\"a\", \"b\"] }";
        let declared =
            parse(&format!("inputs = [{tensor}]\noutputs = [{tensor}]\n[data]\n\"a.data\" = \"{SHA256}\"")).unwrap();
        assert_eq!(declared.signature(none()).unwrap().inputs.first().unwrap().columns, ["a", "b"]);
        assert_eq!(declared.data.keys().collect::<Vec<_>>(), ["a.data"]);
    }

    #[test]
    fn what_cannot_be_declared_is_refused_with_its_place() {
        let tensor = "{ name = \"x\", datatype = \"FP32\", shape = [-1] }";
        for (text, reason, words) in [
            ("data = 1".to_owned(), Reason::Manifest, "rampart.toml"),
            ("sha256 = \"\"".to_owned(), Reason::Manifest, "sha256"),
            (format!("[data]\n\"../a\" = \"{SHA256}\""), Reason::Manifest, "../a"),
            (format!("inputs = [{tensor}]"), Reason::Signature, "outputs"),
            (format!("inputs = [{tensor}, {tensor}]\noutputs = [{tensor}]"), Reason::Signature, "declared twice"),
        ] {
            let fault = parse(&text).unwrap_err();
            assert!(fault.reason == reason && fault.detail.contains(words), "{text}: {fault}");
        }
        assert_eq!(Declaration::parse(b"\xff").unwrap_err().reason, Reason::Manifest);
    }
}
