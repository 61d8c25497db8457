//! What a model takes and gives: names, datatypes and shapes, and whether a tensor fits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tensor::Datatype;

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// As callers name it.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its dimensions; -1 is any length.
    pub shape: Vec<i64>,
    /// What its last dimension counts, e.g. the features of an input or the classes of probabilities; empty when unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// All inputs and outputs of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Signature {
    /// In the order of the model file.
    pub inputs: Vec<TensorSpec>,
    /// In the order of the model file.
    pub outputs: Vec<TensorSpec>,
}

/// How a declared signature and a model file differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignatureMismatch(String);

/// How a tensor differs from what a model takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMismatch {
    /// `datatype` or `shape`.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

// === impl TensorSpec ===

impl TensorSpec {
    /// Refuses a tensor that the model does not take.
    pub fn admit(&self, datatype: Datatype, shape: &[i64]) -> Result<(), TensorMismatch> {
        if datatype != self.datatype {
            let detail = format!("{:?} is {}, not {datatype}", self.name, self.datatype);
            return Err(TensorMismatch { field: "datatype", detail });
        }
        if !self.fits(shape) {
            let detail = format!(
                "{:?} has the shape {} (-1 is any length), not {}",
                self.name,
                Dimensions(&self.shape),
                Dimensions(shape)
            );
            return Err(TensorMismatch { field: "shape", detail });
        }
        Ok(())
    }

    fn fits(&self, shape: &[i64]) -> bool {
        let fits = |(wanted, got): (&i64, &i64)| *got >= 0 && (*wanted == -1 || wanted == got);
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(fits)
    }

    /// Whether this declaration is true of the model file: the same, or narrower where the file leaves a length open.
    fn describes(&self, real: &Self, is_output: bool) -> bool {
        // The graph may leave the rank of an output unsaid; the golden examples then show what it is.
        let unsaid = is_output && real.shape.is_empty();
        let dimension = |(declared, real): (&i64, &i64)| declared == real || *real == -1;
        let shape = self.shape.len() == real.shape.len() && self.shape.iter().zip(&real.shape).all(dimension);
        self.name == real.name && self.datatype == real.datatype && (unsaid || shape)
    }
}

// === impl Signature ===

impl Signature {
    /// The position of an input.
    pub fn input(&self, name: &str) -> Option<(usize, &TensorSpec)> {
        position(&self.inputs, name)
    }

    /// The position of an output.
    pub fn output(&self, name: &str) -> Option<(usize, &TensorSpec)> {
        position(&self.outputs, name)
    }

    /// This declaration in the order of the model file, or how the two differ.
    pub fn in_order_of(&self, real: &Self) -> Result<Self, SignatureMismatch> {
        Ok(Self {
            inputs: align("input", &self.inputs, &real.inputs, false)?,
            outputs: align("output", &self.outputs, &real.outputs, true)?,
        })
    }
}

/// The few tensors of a model are searched faster in a row than in a map.
fn position<'s>(specs: &'s [TensorSpec], name: &str) -> Option<(usize, &'s TensorSpec)> {
    specs.iter().enumerate().find(|(_, spec)| spec.name == name)
}

fn align(
    what: &str,
    declared: &[TensorSpec],
    real: &[TensorSpec],
    is_output: bool,
) -> Result<Vec<TensorSpec>, SignatureMismatch> {
    if let Some(unknown) = declared.iter().find(|spec| position(real, &spec.name).is_none()) {
        return Err(SignatureMismatch(format!(
            "model.toml declares the {what} {:?}, which the model has not",
            unknown.name
        )));
    }
    real.iter()
        .map(|real| match position(declared, &real.name) {
            None => Err(SignatureMismatch(format!("model.toml does not declare the {what} {real}"))),
            Some((_, spec)) if spec.describes(real, is_output) => Ok(spec.clone()),
            Some((_, spec)) => {
                Err(SignatureMismatch(format!("model.toml declares the {what} {spec}, but the model has {real}")))
            }
        })
        .collect()
}

/// A shape as people write it.
pub(crate) struct Dimensions<'a>(pub &'a [i64]);

impl fmt::Display for Dimensions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dimension) in self.0.iter().enumerate() {
            write!(f, "{}{dimension}", if index > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.name, self.datatype, Dimensions(&self.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), columns: vec![] }
    }

    #[test]
    fn a_tensor_is_admitted_by_datatype_rank_and_fixed_dimensions() {
        let input = spec("x", Datatype::Fp32, &[-1, 30]);
        let field = |datatype, shape: &[i64]| input.admit(datatype, shape).err().map(|mismatch| mismatch.field);
        assert_eq!(field(Datatype::Fp32, &[7, 30]), None);
        assert_eq!(field(Datatype::Fp32, &[0, 30]), None);
        assert_eq!(field(Datatype::Fp64, &[7, 30]), Some("datatype"));
        for shape in [&[7, 31][..], &[30], &[-1, 30], &[7, 30, 1], &[]] {
            assert_eq!(field(Datatype::Fp32, shape), Some("shape"), "{shape:?}");
        }
    }

    #[test]
    fn a_declaration_may_be_narrower_but_not_different() {
        let real = Signature {
            inputs: vec![spec("a", Datatype::Fp32, &[-1, -1]), spec("b", Datatype::Int64, &[-1])],
            outputs: vec![spec("y", Datatype::Fp32, &[])],
        };
        let declared =
            |inputs: Vec<TensorSpec>| Signature { inputs, outputs: vec![spec("y", Datatype::Fp32, &[-1, 2])] };
        let b = || spec("b", Datatype::Int64, &[-1]);
        let narrower = declared(vec![b(), spec("a", Datatype::Fp32, &[-1, 30])]).in_order_of(&real).unwrap();
        assert_eq!(narrower.inputs[0].name, "a");
        assert!(declared(vec![spec("a", Datatype::Fp32, &[-1, 30])]).in_order_of(&real).is_err());
        assert!(declared(vec![b(), spec("a", Datatype::Fp64, &[-1, 30])]).in_order_of(&real).is_err());
        assert!(declared(vec![b(), spec("a", Datatype::Fp32, &[-1])]).in_order_of(&real).is_err());
        assert!(
            declared(vec![b(), spec("a", Datatype::Fp32, &[-1, 1]), spec("c", Datatype::Fp32, &[1])])
                .in_order_of(&real)
                .is_err()
        );
    }
}
