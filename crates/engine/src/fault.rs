//! Why a model does not serve: what its file, its declaration or its origin must be, and is not.

use strum::{IntoStaticStr, VariantArray};

/// The longest text of a fault.
const DETAIL_BYTES_MAX: usize = 2 << 10;

/// Why a model or a version of it does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{detail}")]
#[serde(deny_unknown_fields)]
pub struct LoadFault {
    /// Its kind.
    pub reason: Reason,
    /// What is wrong, and where.
    pub detail: String,
}

/// The kinds of [`LoadFault`], as metrics and logs know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// `model.toml` is missing or wrong.
    Manifest,
    /// The model file cannot be read or is too large.
    Artifact,
    /// It is no ONNX model.
    Format,
    /// It is not the file whose digest was declared.
    Digest,
    /// ONNX Runtime refuses it.
    Engine,
    /// Its inputs and outputs are not the declared ones.
    Signature,
    /// It does not give its golden outputs, or has none.
    Golden,
    /// It took more time or memory than allowed, or the probing process died.
    Limits,
    /// A fault of this replica: no process, no thread.
    Internal,
}

// === impl LoadFault, Reason ===

impl LoadFault {
    /// A fault of this kind. A longer text is cut: it quotes a file, and goes to every caller and into the index.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > DETAIL_BYTES_MAX {
            detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
            detail.push('…');
        }
        Self { reason, detail }
    }

    /// A fault of this replica.
    pub fn internal(error: impl ToString) -> Self {
        Self::new(Reason::Internal, error.to_string())
    }
}

impl Reason {
    /// Every reason, for metrics that exist before they are needed.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Whether the version itself is wrong, and not the machine at this moment: another attempt with the same files ends the same.
    pub fn is_of_the_version(self) -> bool {
        match self {
            Self::Manifest | Self::Format | Self::Digest | Self::Engine | Self::Signature | Self::Golden => true,
            Self::Artifact | Self::Limits | Self::Internal => false,
        }
    }

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut() {
        let fault = LoadFault::new(Reason::Manifest, "é".repeat(5000));
        assert!(fault.detail.len() < 2100 && fault.detail.ends_with("é…"), "{}", fault.detail.len());
    }
}
