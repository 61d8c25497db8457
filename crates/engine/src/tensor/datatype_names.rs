//! Names of datatypes: those of the protocol, and what NumPy, ONNX and pandas call the same.

use super::Datatype;

/// A name that no datatype has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a datatype; write {instead}")]
pub struct UnknownDatatype {
    name: String,
    instead: String,
}

// === impl Datatype ===

impl Datatype {
    /// The least and the greatest whole number of it; none if its elements are something else.
    pub fn whole_numbers(self) -> Option<(i64, u64)> {
        Some(match self {
            Self::Uint8 => (0, u8::MAX.into()),
            Self::Uint16 => (0, u16::MAX.into()),
            Self::Uint32 => (0, u32::MAX.into()),
            Self::Uint64 => (0, u64::MAX),
            Self::Int8 => (i8::MIN.into(), i8::MAX.unsigned_abs().into()),
            Self::Int16 => (i16::MIN.into(), i16::MAX.unsigned_abs().into()),
            Self::Int32 => (i32::MIN.into(), i32::MAX.unsigned_abs().into()),
            Self::Int64 => (i64::MIN, i64::MAX.unsigned_abs()),
            Self::Bool | Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64 | Self::Bytes => return None,
        })
    }

    /// A datatype by its name in the protocol. The names that others have for it are told apart in the error.
    pub fn parse(name: &str) -> Result<Self, UnknownDatatype> {
        name.parse().map_err(|_| {
            let instead = if name.starts_with("seq(map(") {
                "FP32, of the output \"probabilities\": the maps of a ZipMap are served as a matrix, a column for each class".to_owned()
            } else {
                known_as(name).map_or_else(|| "one of the protocol's, e.g. FP32 or INT64".to_owned(), |it| it.to_string())
            };
            UnknownDatatype { name: name.chars().take(64).collect(), instead }
        })
    }
}

impl TryFrom<String> for Datatype {
    type Error = UnknownDatatype;

    fn try_from(name: String) -> Result<Self, UnknownDatatype> {
        Self::parse(&name)
    }
}

fn known_as(name: &str) -> Option<Datatype> {
    let lower = name.to_ascii_lowercase();
    let plain = lower.strip_prefix("tensor(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(&lower);
    Some(match plain {
        "bool" | "boolean" | "bool_" => Datatype::Bool,
        "float16" | "half" | "fp16" => Datatype::Fp16,
        "float" | "float32" | "single" | "fp32" => Datatype::Fp32,
        "float64" | "double" | "fp64" => Datatype::Fp64,
        "bfloat16" | "bf16" => Datatype::Bf16,
        "str" | "string" | "object" | "text" | "bytes" => Datatype::Bytes,
        "int" | "integer" | "long" => Datatype::Int64,
        other => other.to_ascii_uppercase().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_a_datatype_is_told() {
        assert_eq!(Datatype::parse("FP32"), Ok(Datatype::Fp32));
        for (name, instead) in [
            ("float32", "FP32"),
            ("tensor(double)", "FP64"),
            ("int64", "INT64"),
            ("uint8", "UINT8"),
            ("object", "BYTES"),
            ("seq(map(int64,tensor(float)))", "\"probabilities\""),
            ("complex64", "e.g. FP32"),
        ] {
            let told = Datatype::parse(name).unwrap_err().to_string();
            assert!(
                told.starts_with(&format!("{name:?} is not a datatype; write ")) && told.contains(instead),
                "{told}"
            );
        }
    }
}
