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
        self.admit_datatype(datatype)?;
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

    pub(crate) fn admit_datatype(&self, datatype: Datatype) -> Result<(), TensorMismatch> {
        if datatype == self.datatype {
            return Ok(());
        }
        let detail = format!("{:?} is {}, not {datatype}", self.name, self.datatype);
        Err(TensorMismatch { field: "datatype", detail })
    }

    fn fits(&self, shape: &[i64]) -> bool {
        let fits = |(wanted, got): (&i64, &i64)| *got >= 0 && (*wanted == -1 || wanted == got);
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(fits)
    }

    /// Whether this declaration is true of the model file: the same, or narrower where the file leaves a length open.
    fn describes(&self, real: &Self) -> bool {
        let dimension = |(declared, real): (&i64, &i64)| declared == real || *real == -1;
        let shape = self.shape.len() == real.shape.len() && self.shape.iter().zip(&real.shape).all(dimension);
        self.name == real.name && self.datatype == real.datatype && shape
    }

    /// This declaration, with the names of columns from the file if it has none.
    fn completed_by(&self, real: &Self) -> Self {
        let columns = if self.columns.is_empty() { &real.columns } else { &self.columns };
        Self { columns: columns.clone(), ..self.clone() }
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
        let inputs = align("input", &self.inputs, &real.inputs)?;
        Ok(Self { inputs, outputs: align("output", &self.outputs, &real.outputs)? }.with_open_batch())
    }

    /// Exporters write the length 1 for what is as long as the batch: LightGBM's label is declared `[1]`, and is `[N]`. Where a model takes
    /// any number of rows, an output with one may have any number of them.
    pub(crate) fn with_open_batch(mut self) -> Self {
        if self.inputs.iter().any(|input| input.shape.first() == Some(&-1)) {
            let first = self.outputs.iter_mut().filter_map(|output| output.shape.first_mut());
            first.filter(|length| **length == 1).for_each(|length| *length = -1);
        }
        self
    }
}

/// The few tensors of a model are searched faster in a row than in a map.
fn position<'s>(specs: &'s [TensorSpec], name: &str) -> Option<(usize, &'s TensorSpec)> {
    specs.iter().enumerate().find(|(_, spec)| spec.name == name)
}

fn align(what: &str, declared: &[TensorSpec], real: &[TensorSpec]) -> Result<Vec<TensorSpec>, SignatureMismatch> {
    if let Some(unknown) = declared.iter().find(|spec| position(real, &spec.name).is_none()) {
        let names: Vec<String> = real.iter().map(|spec| format!("{:?}", spec.name)).collect();
        return Err(SignatureMismatch(format!(
            "model.toml declares the {what} {:?}, which the model has not; it has {}",
            unknown.name,
            names.join(", ")
        )));
    }
    real.iter()
        .map(|real| match position(declared, &real.name) {
            None => Err(SignatureMismatch(format!("model.toml does not declare the {what} {real}"))),
            Some((_, spec)) if spec.describes(real) => Ok(spec.completed_by(real)),
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
            outputs: vec![spec("y", Datatype::Fp32, &[-1, 2])],
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

    /// As onnxmltools writes LightGBM's classifiers: whether the file says `[1]` or the declaration, it is any length, and stays so.
    #[test]
    fn an_output_of_one_row_has_as_many_as_there_are() {
        let with = |input: i64, output: i64| Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[input, 4])],
            outputs: vec![spec("label", Datatype::Int64, &[output])],
        };
        let real = with(-1, 1).with_open_batch();
        for declared in [with(-1, 1), with(-1, -1)] {
            let accepted = declared.in_order_of(&real).unwrap();
            assert_eq!(accepted.outputs[0].shape, [-1]);
            assert_eq!(declared.in_order_of(&accepted), Ok(accepted));
        }
        assert_eq!(with(7, 1).with_open_batch().outputs[0].shape, [1]);
    }
}
