//! Why ONNX Runtime refuses a model, and what can be done about it.

use crate::{
    fault::{LoadFault, Reason},
    model_file::{MODEL, graph::Graph},
};

/// A file with weights that `model.toml` does not speak of.
pub(super) fn undeclared(file: &str) -> LoadFault {
    let detail = format!(
        "{MODEL} keeps weights in {file:?}, which model.toml does not declare: put that file beside {MODEL}, and below the version \
         write data = {{ {file:?} = \"<its SHA-256>\" }}"
    );
    LoadFault::new(Reason::Manifest, detail)
}

/// Why ONNX Runtime does not load a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It reads files up to this IR version.
    IrVersion(u64),
    /// It computes up to this opset.
    Opset(u64),
    /// Anything else, in its words.
    Other(String),
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn of(message: &str) -> Self {
        if let Some(newest) = number_after(message, "max supported IR version: ") {
            return Self::IrVersion(newest);
        }
        if let Some(newest) = number_after(message, "for domain ai.onnx is till opset ") {
            return Self::Opset(newest);
        }
        Self::Other(message.to_owned())
    }

    /// What it says, and the remedy where one is known.
    pub(crate) fn fault(&self, graph: &Graph) -> LoadFault {
        let detail = match self {
            Self::IrVersion(newest) => format!(
                "{MODEL} is of IR version {}, and this engine reads up to {newest}: export it for an older opset (skl2onnx and onnxmltools: \
                 target_opset=…, torch.onnx.export: opset_version=…), or set model.ir_version = {newest} before onnx.save",
                graph.ir_version
            ),
            Self::Opset(newest) => format!(
                "{MODEL} is of opset {}, and this engine computes up to {newest}: export it with target_opset={newest} (skl2onnx, onnxmltools) \
                 or opset_version={newest} (torch.onnx.export)",
                graph.opset
            ),
            Self::Other(message)
                if message.contains("Failed to construct locale") || message.contains("locale::facet") =>
            {
                format!(
                    "{MODEL} compares text by the rules of a language, and this machine has no locale of it (install it, on Debian: apt-get \
                     install locales; localedef -i en_US -f UTF-8 en_US.UTF-8): {}",
                    message.lines().next().unwrap_or_default()
                )
            }
            Self::Other(message) => message.clone(),
        };
        LoadFault::new(Reason::Engine, detail)
    }
}

fn number_after(message: &str, words: &str) -> Option<u64> {
    let (_, rest) = message.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_new_names_the_option_of_the_exporter() {
        let graph = Graph { ir_version: 14, opset: 30, ..Graph::default() };
        let explained = |message: &str| Refusal::of(message).fault(&graph).detail;
        let ir = explained("Unsupported model IR version: 14, max supported IR version: 13");
        assert!(ir.contains("IR version 14") && ir.contains("up to 13") && ir.contains("target_opset"), "{ir}");
        let opset = explained("Current official support for domain ai.onnx is till opset 26.");
        assert!(opset.contains("of opset 30") && opset.contains("target_opset=26"), "{opset}");
        assert_eq!(explained("something else"), "something else");
    }
}
