//! What a loaded model takes and gives, as the protocol has it.

use std::collections::BTreeSet;

use ort::value::{Outlet, ValueType};

use super::datatype;
use crate::{
    model_file::{
        graph::{Graph, no_tensor, unknown_element},
        zipmap::PROBABILITIES,
    },
    signature::{Signature, TensorSpec},
};

/// What scikit-learn's exporters call the class beside a ZipMap's maps, and what it is called here.
const LABEL: (&str, &str) = ("output_label", "label");

/// A signature as the file has it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) signature: Signature,
    /// Inputs and outputs whose number of dimensions is not known.
    pub(crate) open_ranks: BTreeSet<String>,
    /// The words that its encoders of categories know.
    pub(crate) categories: Vec<Vec<String>>,
}

// === impl Served ===

impl Served {
    /// Maps and sequences are no tensors of the protocol: all of them are told.
    pub(super) fn of(inputs: &[Outlet], outputs: &[Outlet], graph: &Graph) -> Result<Self, Vec<String>> {
        let (inputs, mut faults) = specs(inputs);
        let (in_graph, of_outputs) = specs(outputs);
        faults.extend(of_outputs);
        if !faults.is_empty() {
            return Err(faults);
        }
        let outputs: Vec<_> = in_graph.iter().map(|spec| renamed(spec, &in_graph, graph)).collect();
        let is_open = |spec: &TensorSpec| spec.shape.is_empty() && graph.open_ranks.contains(&spec.name);
        let open_inputs = inputs.iter().filter(|spec| is_open(spec)).map(|spec| spec.name.clone());
        let open_outputs =
            in_graph.iter().zip(&outputs).filter(|(spec, _)| is_open(spec)).map(|(_, it)| it.name.clone());
        let open_ranks = open_inputs.chain(open_outputs).collect();
        let signature = Signature { inputs, outputs }.with_open_batch();
        Ok(Self { signature, open_ranks, categories: graph.categories.clone() })
    }

    /// Where the file does not say how many dimensions there are, the declaration does.
    pub(super) fn fill_open_ranks(&self, declared: &Signature) -> Signature {
        let mut filled = self.signature.clone();
        let is_open = |spec: &&mut TensorSpec| self.open_ranks.contains(&spec.name);
        for input in filled.inputs.iter_mut().filter(is_open) {
            if let Some((_, declared)) = declared.input(&input.name) {
                input.shape.clone_from(&declared.shape);
            }
        }
        for output in filled.outputs.iter_mut().filter(is_open) {
            if let Some((_, declared)) = declared.output(&output.name) {
                output.shape.clone_from(&declared.shape);
            }
        }
        filled
    }
}

/// The matrix of a ZipMap has the name that it has everywhere, with the classes as its columns, and so has the label beside it.
fn renamed(spec: &TensorSpec, all: &[TensorSpec], graph: &Graph) -> TensorSpec {
    let is_free = |name: &str| !all.iter().any(|other| other.name == name && other.name != spec.name);
    let mut spec = spec.clone();
    if let Some(zipmap) = graph.zipmaps.iter().find(|zipmap| zipmap.scores == spec.name) {
        // Of a matrix of another width they would be names of something else.
        let width = spec.shape.get(1).copied().unwrap_or(-1);
        if width == -1 || i64::try_from(zipmap.classes.len()) == Ok(width) {
            spec.columns.clone_from(&zipmap.classes);
        }
        let name = if graph.zipmaps.len() == 1 && is_free(PROBABILITIES) { PROBABILITIES } else { &zipmap.output };
        name.clone_into(&mut spec.name);
    } else if !graph.zipmaps.is_empty() && spec.name == LABEL.0 && is_free(LABEL.1) {
        LABEL.1.clone_into(&mut spec.name);
    }
    spec
}

fn specs(outlets: &[Outlet]) -> (Vec<TensorSpec>, Vec<String>) {
    let (mut specs, mut faults) = (Vec::new(), Vec::new());
    for outlet in outlets {
        match spec(outlet) {
            Ok(spec) => specs.push(spec),
            Err(fault) => faults.push(fault),
        }
    }
    (specs, faults)
}

fn spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    let name = outlet.name();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(no_tensor(name, &outlet.dtype().to_string()));
    };
    let datatype = datatype(*ty).ok_or_else(|| unknown_element(name, &ty.to_string()))?;
    Ok(TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), columns: Vec::new() })
}
