//! The binary form of tensors: little-endian, row-major, no padding; strings with a 32-bit length before each.
//!
//! The same bytes travel in REST (`binary_tensor_data`) and in gRPC (`raw_input_contents`).

use bytes::{Buf, Bytes};
use half::{bf16, f16};

use super::{Data, Datatype, Tensor, element_count, for_data};

/// Why bytes are not the tensor they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryFault {
    /// The shape itself.
    #[error("the shape has a negative dimension or too many elements")]
    Shape,
    /// Numbers of another length.
    #[error("{got} bytes, but this shape and datatype take {wanted}")]
    Length {
        /// Bytes that were sent.
        got: usize,
        /// Bytes that the shape and the datatype take.
        wanted: usize,
    },
    /// A byte of a BOOL tensor.
    #[error("a BOOL element is neither 0 nor 1")]
    Bool,
    /// The bytes end before a string does.
    #[error("the strings end in the middle of an element")]
    Truncated,
    /// More or fewer strings than elements.
    #[error("{got} strings, but this shape has {wanted}")]
    Count {
        /// Strings that were sent.
        got: usize,
        /// Elements of the shape.
        wanted: usize,
    },
    /// A string that ONNX cannot hold.
    #[error("a string is not UTF-8 without NUL, which is all that the engine can hold")]
    Text,
}

/// Reads a tensor from its binary form. Strings keep a share of `raw`, numbers are copied into their own type.
pub fn decode_binary(datatype: Datatype, shape: Vec<i64>, raw: &Bytes) -> Result<Tensor, BinaryFault> {
    decode(datatype, shape, raw, is_text)
}

/// The same of a tensor that a model gave or is given; a model may give strings with NUL.
pub(crate) fn decode_computed(datatype: Datatype, shape: Vec<i64>, raw: &Bytes) -> Result<Tensor, BinaryFault> {
    decode(datatype, shape, raw, |string| std::str::from_utf8(string).is_ok())
}

fn decode(
    datatype: Datatype,
    shape: Vec<i64>,
    raw: &Bytes,
    is_allowed: fn(&[u8]) -> bool,
) -> Result<Tensor, BinaryFault> {
    let count = element_count(&shape).ok_or(BinaryFault::Shape)?;
    if let Some(size) = datatype.element_size() {
        let wanted = count.checked_mul(size).ok_or(BinaryFault::Shape)?;
        if raw.len() != wanted {
            return Err(BinaryFault::Length { got: raw.len(), wanted });
        }
    }
    let data = match datatype {
        Datatype::Bool => Data::Bool(decode_bools(raw)?),
        Datatype::Uint8 => Data::Uint8(raw.to_vec()),
        Datatype::Uint16 => Data::Uint16(decode_numbers(raw, u16::from_le_bytes)),
        Datatype::Uint32 => Data::Uint32(decode_numbers(raw, u32::from_le_bytes)),
        Datatype::Uint64 => Data::Uint64(decode_numbers(raw, u64::from_le_bytes)),
        Datatype::Int8 => Data::Int8(decode_numbers(raw, i8::from_le_bytes)),
        Datatype::Int16 => Data::Int16(decode_numbers(raw, i16::from_le_bytes)),
        Datatype::Int32 => Data::Int32(decode_numbers(raw, i32::from_le_bytes)),
        Datatype::Int64 => Data::Int64(decode_numbers(raw, i64::from_le_bytes)),
        Datatype::Fp16 => Data::Fp16(decode_numbers(raw, f16::from_le_bytes)),
        Datatype::Fp32 => Data::Fp32(decode_numbers(raw, f32::from_le_bytes)),
        Datatype::Fp64 => Data::Fp64(decode_numbers(raw, f64::from_le_bytes)),
        Datatype::Bf16 => Data::Bf16(decode_numbers(raw, bf16::from_le_bytes)),
        Datatype::Bytes => Data::Bytes(decode_strings(raw.clone(), count, is_allowed)?),
    };
    Ok(Tensor { shape, data })
}

/// How many bytes [`encode_binary`] will write.
pub fn encoded_len(data: &Data) -> usize {
    match data {
        Data::Bytes(strings) => strings.iter().map(|string| string.len() + 4).sum(),
        _ => data.len() * data.datatype().element_size().unwrap_or(0),
    }
}

/// Appends the binary form of a tensor's elements.
pub fn encode_binary(data: &Data, out: &mut Vec<u8>) {
    out.reserve(encoded_len(data));
    for_data!(data, values => values.iter().for_each(|value| value.put(out)), bytes strings => encode_strings(strings, out));
}

/// Whether the engine can hold these bytes as one of its strings.
pub fn is_text(string: &[u8]) -> bool {
    !string.contains(&0) && std::str::from_utf8(string).is_ok()
}

fn decode_numbers<const SIZE: usize, T>(raw: &[u8], from_le: fn([u8; SIZE]) -> T) -> Vec<T> {
    raw.as_chunks::<SIZE>().0.iter().map(|bytes| from_le(*bytes)).collect()
}

fn decode_bools(raw: &[u8]) -> Result<Vec<bool>, BinaryFault> {
    raw.iter()
        .map(|byte| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BinaryFault::Bool),
        })
        .collect()
}

fn decode_strings(mut raw: Bytes, wanted: usize, is_allowed: fn(&[u8]) -> bool) -> Result<Vec<Bytes>, BinaryFault> {
    // Four bytes is the least that a string takes, so the reservation is bounded by what was really sent.
    let mut strings = Vec::with_capacity(wanted.min(raw.len() / 4));
    while raw.has_remaining() {
        let length = raw.try_get_u32_le().map_err(|_| BinaryFault::Truncated)?;
        let length = usize::try_from(length).map_err(|_| BinaryFault::Truncated)?;
        if length > raw.remaining() {
            return Err(BinaryFault::Truncated);
        }
        let string = raw.split_to(length);
        if !is_allowed(&string) {
            return Err(BinaryFault::Text);
        }
        strings.push(string);
    }
    if strings.len() != wanted {
        return Err(BinaryFault::Count { got: strings.len(), wanted });
    }
    Ok(strings)
}

fn encode_strings(strings: &[Bytes], out: &mut Vec<u8>) {
    for string in strings {
        // The form has 32 bits for a length. No answer is that large; one that were is cut rather than misread.
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend(string.iter().take(length as usize));
    }
}

/// Appends one element in little-endian order.
trait PutLittleEndian {
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! put_little_endian {
    ($($number:ty),*) => {$(
        impl PutLittleEndian for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
put_little_endian!(u8, u16, u32, u64, i8, i16, i32, i64, f16, f32, f64, bf16);

impl PutLittleEndian for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strum::VariantArray;

    use super::*;

    fn round_trip(datatype: Datatype, count: usize, raw: Vec<u8>) {
        let raw = Bytes::from(raw);
        let shape = vec![i64::try_from(count).unwrap()];
        let tensor = decode_binary(datatype, shape, &raw).unwrap();
        let mut out = Vec::new();
        encode_binary(tensor.data(), &mut out);
        assert_eq!(out, raw);
        assert_eq!(encoded_len(tensor.data()), raw.len());
        assert_eq!(tensor.datatype(), datatype);
    }

    proptest! {
        /// Every bit pattern of every number survives, NaN payloads included.
        #[test]
        fn numbers_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for datatype in Datatype::VARIANTS.iter().copied() {
                let Some(size) = datatype.element_size() else { continue };
                let count = bytes.len() / size;
                let mut raw = bytes[..count * size].to_vec();
                if datatype == Datatype::Bool {
                    raw.iter_mut().for_each(|byte| *byte &= 1);
                }
                round_trip(datatype, count, raw);
            }
        }

        #[test]
        fn strings_round_trip(strings in proptest::collection::vec("[^\0]{0,12}", 0..20)) {
            let mut raw = Vec::new();
            encode_strings(&strings.iter().map(|s| Bytes::from(s.clone())).collect::<Vec<_>>(), &mut raw);
            round_trip(Datatype::Bytes, strings.len(), raw);
        }

        /// Whatever is sent, reading ends in a tensor or a fault, never in a panic or a huge allocation.
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), shape in proptest::collection::vec(any::<i64>(), 0..4)) {
            for datatype in Datatype::VARIANTS.iter().copied() {
                if let Ok(tensor) = decode_binary(datatype, shape.clone(), &Bytes::from(bytes.clone())) {
                    prop_assert_eq!(element_count(tensor.shape()), Some(tensor.data().len()));
                }
            }
        }
    }

    #[test]
    fn each_binary_fault_has_its_own_variant() {
        let decode = |datatype, shape: &[i64], raw: &'static [u8]| {
            decode_binary(datatype, shape.to_vec(), &Bytes::from_static(raw)).unwrap_err()
        };
        assert_eq!(decode(Datatype::Fp32, &[2], &[0; 7]), BinaryFault::Length { got: 7, wanted: 8 });
        assert_eq!(decode(Datatype::Fp32, &[-1], &[]), BinaryFault::Shape);
        assert_eq!(decode(Datatype::Bool, &[1], &[2]), BinaryFault::Bool);
        assert_eq!(decode(Datatype::Bytes, &[1], &[9, 0, 0, 0, b'a']), BinaryFault::Truncated);
        assert_eq!(decode(Datatype::Bytes, &[2], &[1, 0, 0, 0, b'a']), BinaryFault::Count { got: 1, wanted: 2 });
        assert_eq!(decode(Datatype::Bytes, &[1], &[1, 0, 0, 0, 0xff]), BinaryFault::Text);
        assert_eq!(decode(Datatype::Bytes, &[1], &[1, 0, 0, 0, 0]), BinaryFault::Text);
        assert_eq!(decode(Datatype::Bytes, &[1], &[0xff, 0xff, 0xff, 0xff, 0]), BinaryFault::Truncated);
    }
}
