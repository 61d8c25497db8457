//! One value of a feature, from its text straight into the tensor's own type.

use std::{borrow::Cow, str::FromStr};

use bytes::Bytes;
use engine::tensor::{Data, Datatype, is_text};
use half::{bf16, f16};

use super::half_text::{parse_bf16, parse_f16};

/// A value as it was sent.
#[derive(Clone, Debug)]
pub(super) enum Scalar<'a> {
    /// By JSON's grammar.
    Number(&'a str),
    Text(Cow<'a, str>),
    Bool(bool),
    Missing,
}

/// What became of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    /// It is missing, and NaN is in its place.
    AsNan,
    /// It is not what the feature takes.
    No(Cow<'static, str>),
}

/// An empty vector of a datatype.
pub(super) fn empty(datatype: Datatype) -> Data {
    match datatype {
        Datatype::Bool => Data::Bool(Vec::new()),
        Datatype::Uint8 => Data::Uint8(Vec::new()),
        Datatype::Uint16 => Data::Uint16(Vec::new()),
        Datatype::Uint32 => Data::Uint32(Vec::new()),
        Datatype::Uint64 => Data::Uint64(Vec::new()),
        Datatype::Int8 => Data::Int8(Vec::new()),
        Datatype::Int16 => Data::Int16(Vec::new()),
        Datatype::Int32 => Data::Int32(Vec::new()),
        Datatype::Int64 => Data::Int64(Vec::new()),
        Datatype::Fp16 => Data::Fp16(Vec::new()),
        Datatype::Fp32 => Data::Fp32(Vec::new()),
        Datatype::Fp64 => Data::Fp64(Vec::new()),
        Datatype::Bytes => Data::Bytes(Vec::new()),
        Datatype::Bf16 => Data::Bf16(Vec::new()),
    }
}

/// Stores a value at its place; places before it that have none yet get a default, to be replaced.
pub(super) fn store(data: &mut Data, at: usize, value: Scalar<'_>) -> Stored {
    let stored = match (&mut *data, value) {
        (Data::Bool(values), Scalar::Bool(value)) => put(values, at, value),
        (Data::Uint8(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Uint16(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Uint32(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Uint64(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Int8(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Int16(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Int32(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Int64(values), Scalar::Number(text)) => integer(values, at, text),
        (Data::Fp16(values), Scalar::Number(text)) => float(values, at, parse_f16(text)),
        (Data::Bf16(values), Scalar::Number(text)) => float(values, at, parse_bf16(text)),
        // The standard parser rounds correctly, which decides whether a threshold of a tree is passed.
        (Data::Fp32(values), Scalar::Number(text)) => {
            float(values, at, text.parse().ok().filter(|it: &f32| it.is_finite()))
        }
        (Data::Fp64(values), Scalar::Number(text)) => {
            float(values, at, text.parse().ok().filter(|it: &f64| it.is_finite()))
        }
        (Data::Fp16(values), Scalar::Missing) => missing(values, at, f16::NAN),
        (Data::Bf16(values), Scalar::Missing) => missing(values, at, bf16::NAN),
        (Data::Fp32(values), Scalar::Missing) => missing(values, at, f32::NAN),
        (Data::Fp64(values), Scalar::Missing) => missing(values, at, f64::NAN),
        (Data::Bytes(values), Scalar::Text(text)) => string(values, at, &text),
        (_, Scalar::Missing) => Stored::No("is missing".into()),
        (data, other) => Stored::No(format!("must be {}, not {}", wanted(data.datatype()), other.shown()).into()),
    };
    match stored {
        Stored::No(detail) if detail == OUT_OF_RANGE => {
            Stored::No(format!("is out of the range of {}", data.datatype()).into())
        }
        stored => stored,
    }
}

/// What a feature of a datatype takes, in words.
pub(super) fn wanted(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "true or false",
        Datatype::Bytes => "a string",
        Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bf16 => "a number",
        _ => "a whole number",
    }
}

/// What others write for a missing number.
const MISSING_WORDS: &[&str] = &["na", "n/a", "nan", "null", "none", "-", "?"];

/// To be said with the datatype.
const OUT_OF_RANGE: &str = "out of range";

fn put<T: Clone + Default>(values: &mut Vec<T>, at: usize, value: T) -> Stored {
    match values.get_mut(at) {
        Some(slot) => *slot = value,
        None => {
            values.resize(at, T::default());
            values.push(value);
        }
    }
    Stored::Yes
}

fn integer<T: FromStr + Clone + Default>(values: &mut Vec<T>, at: usize, text: &str) -> Stored {
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return Stored::No("must be written as a whole number".into());
    }
    text.parse().map_or(Stored::No(OUT_OF_RANGE.into()), |value| put(values, at, value))
}

fn float<T: Clone + Default>(values: &mut Vec<T>, at: usize, value: Option<T>) -> Stored {
    value.map_or(Stored::No(OUT_OF_RANGE.into()), |value| put(values, at, value))
}

fn missing<T: Clone + Default>(values: &mut Vec<T>, at: usize, nan: T) -> Stored {
    put(values, at, nan);
    Stored::AsNan
}

fn string(values: &mut Vec<Bytes>, at: usize, text: &str) -> Stored {
    if !is_text(text.as_bytes()) {
        return Stored::No("has a NUL, which the engine cannot hold".into());
    }
    put(values, at, Bytes::copy_from_slice(text.as_bytes()))
}

// === impl Scalar ===

impl<'a> Scalar<'a> {
    /// A field of a CSV row, which has no types of its own.
    pub(super) fn of_field(field: &'a str, datatype: Datatype) -> Result<Self, String> {
        let value = match (datatype, field) {
            (_, "") => Self::Missing,
            (Datatype::Bytes, text) => Self::Text(text.into()),
            (Datatype::Bool, "true" | "True" | "TRUE") => Self::Bool(true),
            (Datatype::Bool, "false" | "False" | "FALSE") => Self::Bool(false),
            (Datatype::Bool, _) => return Err("must be true or false".to_owned()),
            (_, text) if is_number(text) => Self::Number(text),
            (datatype, text) if MISSING_WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) => {
                return Err(format!("must be {}; where it is missing, the field is empty", wanted(datatype)));
            }
            (datatype, _) => return Err(format!("must be {}", wanted(datatype))),
        };
        Ok(value)
    }

    fn shown(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Bool(_) => "true or false",
            Self::Missing => "null",
        }
    }
}

/// Digits with at most a sign, a point and an exponent: no infinity, no NaN, no white space.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(datatype: Datatype, value: Scalar<'_>) -> Stored {
        store(&mut empty(datatype), 0, value)
    }

    fn refusal(datatype: Datatype, value: Scalar<'_>) -> String {
        match stored(datatype, value) {
            Stored::No(detail) => detail.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        let mut data = empty(Datatype::Int64);
        assert_eq!(store(&mut data, 1, Scalar::Number("9007199254740993")), Stored::Yes);
        assert_eq!(data, Data::Int64(vec![0, 9_007_199_254_740_993]));
        for text in ["1.0", "1e2", "1E2"] {
            assert_eq!(refusal(Datatype::Int32, Scalar::Number(text)), "must be written as a whole number");
        }
        for (datatype, text) in [
            (Datatype::Int8, "128"),
            (Datatype::Uint8, "-1"),
            (Datatype::Uint64, "18446744073709551616"),
            (Datatype::Fp32, "1e39"),
            (Datatype::Fp64, "-1e309"),
            (Datatype::Fp16, "65520"),
        ] {
            assert_eq!(refusal(datatype, Scalar::Number(text)), format!("is out of the range of {datatype}"));
        }
        // Over double precision this would round to the even neighbour below.
        let mut data = empty(Datatype::Fp32);
        assert_eq!(store(&mut data, 0, Scalar::Number("1.00000005960464477540")), Stored::Yes);
        assert_eq!(data, Data::Fp32(vec![1.000_000_1]));
    }

    #[test]
    fn no_type_is_taken_for_another() {
        assert_eq!(refusal(Datatype::Bytes, Scalar::Number("1")), "must be a string, not a number");
        assert_eq!(refusal(Datatype::Bool, Scalar::Number("1")), "must be true or false, not a number");
        assert_eq!(refusal(Datatype::Fp32, Scalar::Bool(true)), "must be a number, not true or false");
        assert_eq!(refusal(Datatype::Int8, Scalar::Text("1".into())), "must be a whole number, not a string");
        assert!(refusal(Datatype::Bytes, Scalar::Text("a\0".into())).contains("NUL"));
    }

    #[test]
    fn only_floats_may_be_missing() {
        for datatype in [Datatype::Fp16, Datatype::Bf16, Datatype::Fp32, Datatype::Fp64] {
            assert_eq!(stored(datatype, Scalar::Missing), Stored::AsNan);
        }
        for datatype in [Datatype::Int64, Datatype::Bool, Datatype::Bytes, Datatype::Uint8] {
            assert_eq!(refusal(datatype, Scalar::Missing), "is missing");
        }
    }

    #[test]
    fn fields_of_csv_are_read_by_the_datatype() {
        let field = |text, datatype| Scalar::of_field(text, datatype);
        assert!(matches!(field("22", Datatype::Bytes), Ok(Scalar::Text(text)) if text == "22"));
        assert!(matches!(field("2.5e-3", Datatype::Fp32), Ok(Scalar::Number("2.5e-3"))));
        assert!(matches!(field("True", Datatype::Bool), Ok(Scalar::Bool(true))));
        assert!(matches!(field("", Datatype::Bytes), Ok(Scalar::Missing)));
        for text in ["inf", "NaN", " 1", "1 ", "0x1", "1,5", "--1", "e", "."] {
            assert!(field(text, Datatype::Fp32).is_err(), "{text}");
        }
        assert!(field("1", Datatype::Bool).is_err());
        for text in ["NA", "nan", "null"] {
            assert!(field(text, Datatype::Fp32).unwrap_err().ends_with("the field is empty"), "{text}");
            assert!(matches!(field(text, Datatype::Bytes), Ok(Scalar::Text(_))), "{text}");
        }
    }
}
