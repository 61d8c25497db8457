//! Names that a model file gives lengths: what has the same name is meant to be equally long.

use std::fmt::Write as _;

use ort::value::{Outlet, ValueType};

use crate::tensor::Tensor;

/// One dimension of an input that has a name.
#[derive(Debug)]
struct NamedLength {
    name: String,
    input: usize,
    dimension: usize,
}

/// Those of all inputs.
#[derive(Debug)]
pub(super) struct NamedLengths {
    inputs: Vec<String>,
    lengths: Vec<NamedLength>,
}

// === impl NamedLengths ===

impl NamedLengths {
    pub(super) fn of(inputs: &[Outlet]) -> Self {
        let of_input = |(input, outlet): (usize, &Outlet)| {
            let names = match outlet.dtype() {
                ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.to_vec(),
                _ => Vec::new(),
            };
            let named = names.into_iter().enumerate().filter(|(_, name)| !name.is_empty());
            named.map(move |(dimension, name)| NamedLength { name, input, dimension })
        };
        let lengths = inputs.iter().enumerate().flat_map(of_input).collect();
        Self { inputs: inputs.iter().map(|input| input.name().to_owned()).collect(), lengths }
    }

    /// Where a call has other lengths under one name, for a caller whom the engine tells about nodes that only the file knows.
    /// A model may take them all the same (a length of 1 is repeated as needed), so this is no reason to refuse.
    pub(super) fn differences(&self, call: &[Tensor]) -> String {
        let mut text = String::new();
        for (position, first) in self.lengths.iter().enumerate() {
            let earlier = self.lengths.iter().take(position);
            if earlier.into_iter().any(|it| it.name == first.name) {
                continue;
            }
            let alike: Vec<(&NamedLength, i64)> = self
                .lengths
                .iter()
                .filter(|it| it.name == first.name)
                .filter_map(|it| Some((it, *call.get(it.input)?.shape().get(it.dimension)?)))
                .collect();
            let length = alike.first().map(|(_, length)| *length);
            if alike.iter().any(|(_, other)| Some(*other) != length) {
                let places: Vec<String> = alike.iter().map(|(it, length)| self.place(it, *length)).collect();
                let separator = if text.is_empty() { "" } else { "; " };
                let _written = write!(text, "{separator}the length {} is {}", first.name, places.join(" and "));
            }
        }
        text
    }

    fn place(&self, length: &NamedLength, value: i64) -> String {
        let input = self.inputs.get(length.input).map(String::as_str).unwrap_or_default();
        format!("{value} in dimension {} of {input}", length.dimension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    fn named(name: &str, input: usize, dimension: usize) -> NamedLength {
        NamedLength { name: name.to_owned(), input, dimension }
    }

    fn tensor(shape: &[i64]) -> Tensor {
        let elements = shape.iter().product::<i64>().try_into().unwrap();
        Tensor::new(shape.to_vec(), Data::Int8(vec![0; elements])).unwrap()
    }

    #[test]
    fn lengths_of_one_name_that_differ_are_told_with_their_places() {
        let lengths = NamedLengths {
            inputs: vec!["a".to_owned(), "b".to_owned()],
            lengths: vec![named("N", 0, 0), named("width", 0, 1), named("N", 1, 0)],
        };
        assert_eq!(lengths.differences(&[tensor(&[2, 3]), tensor(&[2])]), "");
        let told = "the length N is 2 in dimension 0 of a and 5 in dimension 0 of b";
        assert_eq!(lengths.differences(&[tensor(&[2, 3]), tensor(&[5])]), told);
    }
}
