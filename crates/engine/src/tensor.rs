//! Tensors of the inference protocol: a shape and row-major elements of one datatype.
//!
//! Invariant: a [`Tensor`] holds exactly as many elements as its shape says, and no dimension is negative. Everything
//! that arrives from outside goes through [`Tensor::new`] or a reader that checked the same, so the engine never does.

mod binary;
mod datatype_names;

use bytes::Bytes;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

pub(crate) use binary::decode_computed;
pub use binary::{BinaryFault, decode_binary, encode_binary, encoded_len, is_text};
pub use datatype_names::UnknownDatatype;

/// A datatype of the protocol.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Deserialize,
    Serialize,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "UPPERCASE", try_from = "String")]
#[strum(serialize_all = "UPPERCASE")]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE half precision; has no JSON form in the protocol.
    Fp16,
    /// IEEE single precision.
    Fp32,
    /// IEEE double precision.
    Fp64,
    /// Byte strings; ONNX strings, so UTF-8 without NUL.
    Bytes,
    /// The upper half of single precision; has no JSON form in the protocol.
    Bf16,
}

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of BOOL.
    Bool(Vec<bool>),
    /// Of UINT8.
    Uint8(Vec<u8>),
    /// Of UINT16.
    Uint16(Vec<u16>),
    /// Of UINT32.
    Uint32(Vec<u32>),
    /// Of UINT64.
    Uint64(Vec<u64>),
    /// Of INT8.
    Int8(Vec<i8>),
    /// Of INT16.
    Int16(Vec<i16>),
    /// Of INT32.
    Int32(Vec<i32>),
    /// Of INT64.
    Int64(Vec<i64>),
    /// Of FP16.
    Fp16(Vec<f16>),
    /// Of FP32.
    Fp32(Vec<f32>),
    /// Of FP64.
    Fp64(Vec<f64>),
    /// Of BYTES.
    Bytes(Vec<Bytes>),
    /// Of BF16.
    Bf16(Vec<bf16>),
}

/// A shape and the elements that fill it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<i64>,
    data: Data,
}

/// Runs one expression for whichever vector a [`Data`] holds; the arms differ in type only.
macro_rules! for_data {
    ($data:expr, $values:ident => $each:expr, bytes $strings:ident => $bytes:expr) => {
        match $data {
            $crate::tensor::Data::Bool($values) => $each,
            $crate::tensor::Data::Uint8($values) => $each,
            $crate::tensor::Data::Uint16($values) => $each,
            $crate::tensor::Data::Uint32($values) => $each,
            $crate::tensor::Data::Uint64($values) => $each,
            $crate::tensor::Data::Int8($values) => $each,
            $crate::tensor::Data::Int16($values) => $each,
            $crate::tensor::Data::Int32($values) => $each,
            $crate::tensor::Data::Int64($values) => $each,
            $crate::tensor::Data::Fp16($values) => $each,
            $crate::tensor::Data::Fp32($values) => $each,
            $crate::tensor::Data::Fp64($values) => $each,
            $crate::tensor::Data::Bf16($values) => $each,
            $crate::tensor::Data::Bytes($strings) => $bytes,
        }
    };
}
pub(crate) use for_data;

// === impl Datatype ===

impl Datatype {
    /// The name on the wire; names are upper case, as the protocol spells them.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Bytes of one element; none for [`Datatype::Bytes`], whose elements differ in length.
    pub fn element_size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Whether the protocol has a JSON form for it.
    pub fn has_json_form(self) -> bool {
        !matches!(self, Self::Fp16 | Self::Bf16)
    }
}

// === impl Data ===

impl Data {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        for_data!(self, values => values.len(), bytes strings => strings.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the elements are.
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::Bool(_) => Datatype::Bool,
            Self::Uint8(_) => Datatype::Uint8,
            Self::Uint16(_) => Datatype::Uint16,
            Self::Uint32(_) => Datatype::Uint32,
            Self::Uint64(_) => Datatype::Uint64,
            Self::Int8(_) => Datatype::Int8,
            Self::Int16(_) => Datatype::Int16,
            Self::Int32(_) => Datatype::Int32,
            Self::Int64(_) => Datatype::Int64,
            Self::Fp16(_) => Datatype::Fp16,
            Self::Fp32(_) => Datatype::Fp32,
            Self::Fp64(_) => Datatype::Fp64,
            Self::Bytes(_) => Datatype::Bytes,
            Self::Bf16(_) => Datatype::Bf16,
        }
    }
}

// === impl Tensor ===

impl Tensor {
    /// A tensor, if the elements fill the shape exactly.
    pub fn new(shape: Vec<i64>, data: Data) -> Option<Self> {
        (element_count(&shape)? == data.len()).then_some(Self { shape, data })
    }

    /// The dimensions, none negative.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// What the elements are.
    pub fn datatype(&self) -> Datatype {
        self.data.datatype()
    }

    /// The memory of its elements; for strings also that of each string's own bookkeeping.
    pub fn bytes_held(&self) -> usize {
        for_data!(&self.data,
            values => size_of_val(values.as_slice()),
            bytes strings => strings.iter().map(|string| size_of::<Bytes>() + string.len()).sum()
        )
    }

    /// The first dimension: how many rows a batch has. A scalar is one row.
    pub fn rows(&self) -> u64 {
        self.shape.first().map_or(1, |rows| rows.unsigned_abs())
    }
}

/// How many elements a shape has; none when a dimension is negative or the product overflows.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, dimension| count.checked_mul(usize::try_from(*dimension).ok()?))
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn names_round_trip_and_are_case_sensitive() {
        let json = serde_json::to_string(Datatype::VARIANTS).unwrap();
        let names = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16";
        assert_eq!(json, format!("[\"{}\"]", names.replace(' ', "\",\"")));
        for datatype in Datatype::VARIANTS {
            assert_eq!(datatype.as_str().parse(), Ok(*datatype));
        }
        assert!("fp32".parse::<Datatype>().is_err());
        assert!("STRING".parse::<Datatype>().is_err());
    }

    #[test]
    fn a_shape_that_overflows_has_no_count() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[3, 0]), Some(0));
        assert_eq!(element_count(&[-1, 2]), None);
        assert_eq!(element_count(&[i64::MAX, i64::MAX]), None);
    }

    #[test]
    fn a_tensor_is_exactly_full() {
        assert!(Tensor::new(vec![2, 2], Data::Int8(vec![1, 2, 3])).is_none());
        assert!(Tensor::new(vec![2, 2], Data::Int8(vec![1, 2, 3, 4])).is_some());
    }
}
