//! `golden.json` as it is written: tensors with names, in any order, `data` flat or nested to the shape.
//!
//! Every number goes from its text into the tensor's own type: a rounding on the way could pass a threshold of a tree.

use std::str::FromStr;

use bytes::Bytes;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    signature::TensorSpec,
    tensor::{Data, Datatype, Tensor, is_text},
};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoldenFile<'a> {
    #[serde(borrow)]
    pub(super) inputs: Vec<GoldenTensor<'a>>,
    #[serde(borrow)]
    pub(super) outputs: Vec<GoldenTensor<'a>>,
    pub(super) tolerance: f64,
}

/// One tensor of it.
#[derive(Deserialize)]
pub(super) struct GoldenTensor<'a> {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    #[serde(borrow)]
    data: &'a RawValue,
}

// === impl GoldenFile, GoldenTensor ===

impl<'a> GoldenFile<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, String> {
        let file: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if (0.0..1.0).contains(&file.tolerance) {
            Ok(file)
        } else {
            Err("tolerance: must be from 0 to less than 1".to_owned())
        }
    }
}

impl GoldenTensor<'_> {
    fn tensor(&self, side: Side) -> Result<Tensor, String> {
        let data = data(self.datatype, &self.elements()?, side)?;
        let count = data.len();
        Tensor::new(self.shape.clone(), data).ok_or_else(|| format!("data: {count} elements do not fill the shape"))
    }

    /// The text of each element.
    fn elements(&self) -> Result<Vec<&str>, String> {
        let mut level = list(self.data)?;
        if level.first().is_some_and(|first| first.get().starts_with('[')) {
            check_length(level.len(), self.shape.first())?;
            for dimension in self.shape.iter().skip(1) {
                let mut below = Vec::new();
                for row in level {
                    let row = list(row)?;
                    check_length(row.len(), Some(dimension))?;
                    below.extend(row);
                }
                level = below;
            }
        }
        Ok(level.into_iter().map(RawValue::get).collect())
    }
}

/// Which of the model's tensors are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// They must be what the model takes.
    Inputs,
    /// They are compared with what it gives, whatever is declared of it: serving sends that, too.
    Outputs,
}

/// One tensor for each of the specs, in the specs' order.
pub(super) fn tensors(side: Side, sent: &[GoldenTensor<'_>], specs: &[TensorSpec]) -> Result<Vec<Tensor>, String> {
    let field = match side {
        Side::Inputs => "inputs",
        Side::Outputs => "outputs",
    };
    let mut found: Vec<Option<Tensor>> = vec![None; specs.len()];
    for (index, tensor) in sent.iter().enumerate() {
        let fault = |detail: String| format!("{field}[{index}]: {detail}");
        let slot = specs.iter().zip(&mut found).find(|(spec, slot)| spec.name == tensor.name && slot.is_none());
        let unknown = || fault(format!("{:?} is unknown or given twice", tensor.name));
        let (spec, slot) = slot.ok_or_else(unknown)?;
        let admitted = match side {
            Side::Inputs => spec.admit(tensor.datatype, &tensor.shape),
            Side::Outputs => spec.admit_datatype(tensor.datatype),
        };
        admitted.map_err(|mismatch| fault(mismatch.detail))?;
        *slot = Some(tensor.tensor(side).map_err(fault)?);
    }
    let complete: Option<Vec<Tensor>> = found.into_iter().collect();
    let names = || specs.iter().map(|spec| &*spec.name).collect::<Vec<_>>().join(", ");
    complete.ok_or_else(|| format!("{field}: must hold all of: {}", names()))
}

fn list(raw: &RawValue) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(raw.get()).map_err(|_| "data: must be a list, flat or nested to the shape".to_owned())
}

fn check_length(length: usize, dimension: Option<&i64>) -> Result<(), String> {
    let fits = dimension.is_some_and(|dimension| i64::try_from(length) == Ok(*dimension));
    if fits { Ok(()) } else { Err(format!("data: a list of {length}, where the shape has another length")) }
}

fn data(datatype: Datatype, elements: &[&str], side: Side) -> Result<Data, String> {
    // NaN, which JSON has no number for: a missing value. What a model gives is compared, and NaN is equal to nothing.
    let may_miss = side == Side::Inputs;
    Ok(match datatype {
        Datatype::Bool => Data::Bool(parse(elements)?),
        Datatype::Uint8 => Data::Uint8(parse(elements)?),
        Datatype::Uint16 => Data::Uint16(parse(elements)?),
        Datatype::Uint32 => Data::Uint32(parse(elements)?),
        Datatype::Uint64 => Data::Uint64(parse(elements)?),
        Datatype::Int8 => Data::Int8(parse(elements)?),
        Datatype::Int16 => Data::Int16(parse(elements)?),
        Datatype::Int32 => Data::Int32(parse(elements)?),
        Datatype::Int64 => Data::Int64(parse(elements)?),
        Datatype::Fp16 => Data::Fp16(finite(elements, f16::from_f64, f16::is_finite, may_miss.then_some(f16::NAN))?),
        Datatype::Bf16 => Data::Bf16(finite(elements, bf16::from_f64, bf16::is_finite, may_miss.then_some(bf16::NAN))?),
        Datatype::Fp32 => {
            Data::Fp32(finite(elements, |value: f32| value, f32::is_finite, may_miss.then_some(f32::NAN))?)
        }
        Datatype::Fp64 => {
            Data::Fp64(finite(elements, |value: f64| value, f64::is_finite, may_miss.then_some(f64::NAN))?)
        }
        Datatype::Bytes => Data::Bytes(each(elements, |text| {
            let string: String = serde_json::from_str(text).ok()?;
            is_text(string.as_bytes()).then(|| Bytes::from(string))
        })?),
    })
}

fn parse<T: FromStr>(elements: &[&str]) -> Result<Vec<T>, String> {
    each(elements, |text| text.parse().ok())
}

fn finite<W: FromStr, T: Copy>(
    elements: &[&str],
    narrow: impl Fn(W) -> T,
    is_finite: impl Fn(T) -> bool,
    missing: Option<T>,
) -> Result<Vec<T>, String> {
    each(elements, |text| match text {
        "null" => missing,
        number => number.parse().ok().map(&narrow).filter(|value| is_finite(*value)),
    })
}

fn each<T>(elements: &[&str], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let element = |(index, text): (usize, &&str)| {
        let shown = || text.chars().take(64).collect::<String>();
        read(text).ok_or_else(|| format!("data[{index}]: {} is not of the datatype or out of its range", shown()))
    };
    elements.iter().enumerate().map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(datatype: &str, shape: &str, data: &str) -> Result<Data, String> {
        let text = format!(r#"{{"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}}}"#);
        let tensor: GoldenTensor<'_> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        tensor.tensor(Side::Outputs).map(|tensor| tensor.data().clone())
    }

    #[test]
    fn a_missing_value_is_null_in_inputs_and_nowhere_else() {
        let floats = Datatype::Fp32;
        let Ok(Data::Fp32(values)) = data(floats, &["1", "null"], Side::Inputs) else { panic!("no FP32") };
        assert!(values[0] == 1.0 && values[1].is_nan());
        assert!(data(floats, &["null"], Side::Outputs).is_err());
        assert!(data(Datatype::Int64, &["null"], Side::Inputs).is_err());
    }

    #[test]
    fn flat_and_nested_data_are_read_exactly() {
        let numbers = vec![9_007_199_254_740_993, i64::MIN];
        assert_eq!(read("INT64", "[2]", "[9007199254740993, -9223372036854775808]"), Ok(Data::Int64(numbers.clone())));
        assert_eq!(read("INT64", "[1, 2]", "[[9007199254740993, -9223372036854775808]]"), Ok(Data::Int64(numbers)));
        assert_eq!(read("FP16", "[2, 1]", "[[1], [0.5]]"), Ok(Data::Fp16(vec![f16::ONE, f16::from_f64(0.5)])));
        assert_eq!(read("FP32", "[2, 0]", "[[], []]"), Ok(Data::Fp32(vec![])));
        assert_eq!(read("BOOL", "[2]", "[true, false]"), Ok(Data::Bool(vec![true, false])));
        assert_eq!(read("BYTES", "[1]", r#"["\u00e9"]"#), Ok(Data::Bytes(vec![Bytes::from_static("é".as_bytes())])));
    }

    #[test]
    fn what_does_not_fit_datatype_or_shape_is_refused() {
        for (datatype, shape, data) in [
            ("INT8", "[1]", "[128]"),
            ("INT32", "[1]", "[1.0]"),
            ("FP32", "[1]", "[1e39]"),
            ("FP16", "[1]", "[1e6]"),
            ("FP32", "[1]", "[\"1\"]"),
            ("FP32", "[1]", "[null]"),
            ("BOOL", "[1]", "[1]"),
            ("BYTES", "[1]", r#"["a\u0000"]"#),
            ("FP32", "[3]", "[1, 2]"),
            ("FP32", "[2, 3]", "[[1, 2], [3, 4, 5, 6]]"),
            ("FP32", "[2]", "[[1, 2]]"),
            ("FP32", "[1, 2]", "[[1, [2]]]"),
            ("FP32", "[1]", "1"),
        ] {
            assert!(read(datatype, shape, data).is_err(), "{datatype} {shape} {data}");
        }
    }
}
