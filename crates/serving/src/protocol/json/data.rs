//! The JSON form of tensors: row-major `data`, flat or nested to the shape.
//!
//! Numbers go from their text straight into the tensor's own type, so an INT64 beyond 2^53 and the last bit of an
//! FP64 survive. Nested data must have exactly the shape: rows that differ in length would otherwise be cut anew.

use std::str::FromStr;

use bytes::Bytes;
use engine::tensor::{Data, Datatype, Tensor, element_count, is_text};

use super::{Fault, Reader, ValueKind};

/// Why a tensor cannot be written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotJson {
    #[error("{0} has no JSON form: ask for this output as binary (\"binary_data\": true)")]
    Datatype(Datatype),
    #[error("it holds NaN or infinity, which JSON cannot carry: ask for this output as binary (\"binary_data\": true)")]
    NonFinite,
    #[error("it holds a string that is not UTF-8: ask for this output as binary (\"binary_data\": true)")]
    Text,
}

/// Reads `data` at the reader's position.
pub(crate) fn read_data(reader: &mut Reader<'_>, datatype: Datatype, shape: Vec<i64>) -> Result<Tensor, Fault> {
    let count =
        element_count(&shape).ok_or_else(|| Fault::value("the shape has a negative dimension or too many elements"))?;
    let data = match datatype {
        Datatype::Bool => Data::Bool(elements(reader, &shape, count, |reader| reader.bool())?),
        Datatype::Uint8 => Data::Uint8(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Uint16 => Data::Uint16(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Uint32 => Data::Uint32(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Uint64 => Data::Uint64(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Int8 => Data::Int8(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Int16 => Data::Int16(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Int32 => Data::Int32(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Int64 => Data::Int64(elements(reader, &shape, count, integer(datatype))?),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Fault::value(format!("{datatype} has no JSON form: send it as a binary tensor")));
        }
        Datatype::Fp32 => Data::Fp32(elements(reader, &shape, count, |reader| float(reader, f32::is_finite))?),
        Datatype::Fp64 => Data::Fp64(elements(reader, &shape, count, |reader| float(reader, f64::is_finite))?),
        Datatype::Bytes => Data::Bytes(elements(reader, &shape, count, text)?),
    };
    Tensor::new(shape, data).ok_or_else(|| Fault::value("the data does not fill the shape"))
}

/// Appends the elements as a flat JSON array.
pub(crate) fn write_data(data: &Data, out: &mut Vec<u8>) -> Result<(), NotJson> {
    out.push(b'[');
    match data {
        Data::Bool(values) => write_each(values, out),
        Data::Uint8(values) => write_each(values, out),
        Data::Uint16(values) => write_each(values, out),
        Data::Uint32(values) => write_each(values, out),
        Data::Uint64(values) => write_each(values, out),
        Data::Int8(values) => write_each(values, out),
        Data::Int16(values) => write_each(values, out),
        Data::Int32(values) => write_each(values, out),
        Data::Int64(values) => write_each(values, out),
        Data::Fp32(values) if values.iter().all(|value| value.is_finite()) => write_each(values, out),
        Data::Fp64(values) if values.iter().all(|value| value.is_finite()) => write_each(values, out),
        Data::Fp32(_) | Data::Fp64(_) => return Err(NotJson::NonFinite),
        Data::Bytes(strings) => {
            let texts: Result<Vec<&str>, _> = strings.iter().map(|string| std::str::from_utf8(string)).collect();
            write_each(&texts.map_err(|_| NotJson::Text)?, out);
        }
        Data::Fp16(_) | Data::Bf16(_) => return Err(NotJson::Datatype(data.datatype())),
    }
    out.push(b']');
    Ok(())
}

fn write_each<T: serde::Serialize>(values: &[T], out: &mut Vec<u8>) {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, value).expect("numbers and strings always serialise into memory");
    }
}

/// Reads flat or nested data; the first element says which.
fn elements<T>(
    reader: &mut Reader<'_>,
    shape: &[i64],
    count: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    // An element takes at least one byte and a comma, so a sender's shape cannot reserve more than was sent.
    let mut values = Vec::with_capacity(count.min(reader.remaining() / 2));
    let mut level = Level { shape, count, read: &read };
    let mut nested = false;
    let mut seen = 0;
    reader.array(|reader, index| {
        if index == 0 {
            nested = reader.peek()? == ValueKind::Array;
        }
        seen = index + 1;
        if nested { level.nested(reader, index, &mut values) } else { level.flat(reader, &mut values) }
    })?;
    if nested {
        level.check_dimension(0, seen)?;
    }
    if values.len() != count {
        return Err(Fault::value(format!("{} elements, but the shape has {count}", values.len())));
    }
    Ok(values)
}

/// What one tensor's elements are read against.
struct Level<'s, R> {
    shape: &'s [i64],
    count: usize,
    read: &'s R,
}

impl<T, R: Fn(&mut Reader<'_>) -> Result<T, Fault>> Level<'_, R> {
    fn flat(&mut self, reader: &mut Reader<'_>, values: &mut Vec<T>) -> Result<(), Fault> {
        if values.len() == self.count {
            return Err(Fault::value(format!("more elements than the {} of the shape", self.count)));
        }
        let value = (self.read)(reader).map_err(|fault| fault.index(values.len()))?;
        values.push(value);
        Ok(())
    }

    fn nested(&mut self, reader: &mut Reader<'_>, index: usize, values: &mut Vec<T>) -> Result<(), Fault> {
        self.row(reader, 1, values).map_err(|fault| fault.index(index))
    }

    /// One array at a depth of the nesting; at the last it holds elements.
    fn row(&mut self, reader: &mut Reader<'_>, depth: usize, values: &mut Vec<T>) -> Result<(), Fault> {
        if depth >= self.shape.len() {
            return Err(Fault::value("nested deeper than the shape has dimensions"));
        }
        let innermost = depth + 1 == self.shape.len();
        let mut seen = 0;
        reader.array(|reader, index| {
            seen = index + 1;
            if !innermost {
                return self.row(reader, depth + 1, values).map_err(|fault| fault.index(index));
            }
            if values.len() == self.count {
                return Err(Fault::value(format!("more elements than the {} of the shape", self.count)));
            }
            values.push((self.read)(reader).map_err(|fault| fault.index(index))?);
            Ok(())
        })?;
        self.check_dimension(depth, seen)
    }

    fn check_dimension(&self, depth: usize, seen: usize) -> Result<(), Fault> {
        let wanted = self.shape.get(depth).copied().unwrap_or(0);
        if i64::try_from(seen) == Ok(wanted) {
            return Ok(());
        }
        Err(Fault::value(format!("{seen} entries in a nested array, but dimension {depth} of the shape is {wanted}")))
    }
}

/// Reads whole numbers of this datatype.
fn integer<T: FromStr>(datatype: Datatype) -> impl Fn(&mut Reader<'_>) -> Result<T, Fault> {
    move |reader| {
        let text = reader.number()?;
        text.parse().map_err(|_| match (text.contains(['.', 'e', 'E']), datatype.whole_numbers()) {
            (false, Some((least, greatest))) => {
                Fault::value(format!("is out of the range of {datatype}, which is from {least} to {greatest}"))
            }
            _ => Fault::value("must be written as a whole number, without a point or an exponent"),
        })
    }
}

fn float<T: FromStr + Copy>(reader: &mut Reader<'_>, is_finite: impl Fn(T) -> bool) -> Result<T, Fault> {
    // The standard parser rounds correctly, which decides whether a threshold of a tree is passed.
    let value = reader.number()?.parse().map_err(|_| Fault::value("not a number"))?;
    if is_finite(value) { Ok(value) } else { Err(Fault::value("out of the range of the datatype")) }
}

fn text(reader: &mut Reader<'_>) -> Result<Bytes, Fault> {
    let string = reader.string()?.into_owned();
    if is_text(string.as_bytes()) {
        Ok(Bytes::from(string))
    } else {
        Err(Fault::value("a string with NUL, which the engine cannot hold"))
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    fn read(datatype: Datatype, shape: &[i64], text: &str) -> Result<Data, String> {
        let mut reader = Reader::new(text.as_bytes());
        let tensor = read_data(&mut reader, datatype, shape.to_vec()).map_err(|fault| fault.to_string())?;
        reader.end().map_err(|fault| fault.to_string())?;
        Ok(tensor.data().clone())
    }

    fn round_trip(data: &Data) {
        let mut out = Vec::new();
        write_data(data, &mut out).unwrap();
        let shape = [i64::try_from(data.len()).unwrap()];
        assert_eq!(read(data.datatype(), &shape, std::str::from_utf8(&out).unwrap()).as_ref(), Ok(data));
        serde_json::from_slice::<serde_json::Value>(&out).unwrap();
    }

    fn finite32() -> impl Strategy<Value = f32> {
        use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
    }

    fn finite64() -> impl Strategy<Value = f64> {
        use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
    }

    #[test]
    fn a_whole_number_is_written_as_one() {
        let refused = |text: &str| read(Datatype::Int64, &[1], text).unwrap_err();
        for text in ["[1.0]", "[1e3]"] {
            assert!(refused(text).contains("must be written as a whole number"), "{}", refused(text));
        }
        let range = "is out of the range of INT64, which is from -9223372036854775808 to 9223372036854775807";
        assert!(refused("[9223372036854775808]").ends_with(range));
        assert!(read(Datatype::Uint8, &[1], "[-1]").unwrap_err().ends_with("UINT8, which is from 0 to 255"));
    }

    proptest! {
        /// What is written is read back to the last bit.
        #[test]
        fn every_number_survives(
            a in proptest::collection::vec(any::<i64>(), 0..20),
            b in proptest::collection::vec(any::<u64>(), 0..20),
            c in proptest::collection::vec(finite32(), 0..20),
            d in proptest::collection::vec(finite64(), 0..20),
            e in proptest::collection::vec(any::<bool>(), 0..20),
            f in proptest::collection::vec("[^\0]{0,9}", 0..9),
            g in proptest::collection::vec(any::<i8>(), 0..20),
        ) {
            round_trip(&Data::Int64(a));
            round_trip(&Data::Uint64(b));
            round_trip(&Data::Fp32(c));
            round_trip(&Data::Fp64(d));
            round_trip(&Data::Bool(e));
            round_trip(&Data::Bytes(f.into_iter().map(Bytes::from).collect()));
            round_trip(&Data::Int8(g));
        }

        /// Nested data reads as flat data of the same shape.
        #[test]
        fn nested_is_flat(rows in 1_usize..5, columns in 1_usize..5, seed in any::<i32>()) {
            let flat: Vec<i32> = (0..rows * columns).map(|i| seed.wrapping_add(i32::try_from(i).unwrap())).collect();
            let nested: Vec<&[i32]> = flat.chunks(columns).collect();
            let shape = [i64::try_from(rows).unwrap(), i64::try_from(columns).unwrap()];
            let from_flat = read(Datatype::Int32, &shape, &serde_json::to_string(&flat).unwrap());
            let from_nested = read(Datatype::Int32, &shape, &serde_json::to_string(&nested).unwrap());
            prop_assert_eq!(from_flat, from_nested);
        }
    }

    #[test]
    fn integers_beyond_doubles_are_exact() {
        assert_eq!(
            read(Datatype::Int64, &[2], "[9007199254740993, -9223372036854775808]"),
            Ok(Data::Int64(vec![9_007_199_254_740_993, i64::MIN]))
        );
        assert_eq!(read(Datatype::Uint64, &[1], "[18446744073709551615]"), Ok(Data::Uint64(vec![u64::MAX])));
    }

    #[test]
    fn each_fault_names_its_element() {
        let fault = |datatype, shape: &[i64], text| read(datatype, shape, text).unwrap_err();
        assert!(fault(Datatype::Int8, &[2], "[1, 128]").starts_with("[1]:"));
        assert!(fault(Datatype::Int32, &[1], "[1.0]").starts_with("[0]:"));
        assert!(fault(Datatype::Fp32, &[1], "[1e39]").contains("range"));
        assert!(fault(Datatype::Fp32, &[1], "[\"1\"]").contains("must be a number"));
        assert!(fault(Datatype::Fp32, &[1], "[null]").contains("must be a number"));
        assert!(fault(Datatype::Bool, &[1], "[1]").contains("true or false"));
        assert!(fault(Datatype::Fp32, &[3], "[1, 2]").contains("2 elements, but the shape has 3"));
        assert!(fault(Datatype::Fp32, &[1], "[1, 2]").contains("more elements"));
        assert!(fault(Datatype::Fp32, &[1], "{}").contains("must be an array"));
        assert!(fault(Datatype::Fp32, &[2, 2], "[[1, NaN], [1, 2]]").starts_with("[0][1]:"));
        assert!(fault(Datatype::Bytes, &[1], "[\"a\\u0000\"]").contains("NUL"));
        assert!(fault(Datatype::Fp64, &[-1], "[]").contains("negative"));
    }

    #[test]
    fn ragged_or_deeper_nesting_is_refused() {
        assert!(read(Datatype::Fp32, &[2, 3], "[[1, 2], [3, 4, 5, 6]]").is_err());
        assert!(read(Datatype::Fp32, &[2, 3], "[[1, 2, 3, 4, 5, 6]]").is_err());
        assert!(read(Datatype::Fp32, &[2], "[[1, 2]]").is_err());
        assert!(read(Datatype::Fp32, &[1, 2], "[[[1, 2]]]").is_err());
        assert!(read(Datatype::Fp32, &[1, 2], "[[1, [2]]]").is_err());
        assert_eq!(read(Datatype::Fp32, &[2, 0], "[[], []]"), Ok(Data::Fp32(vec![])));
        assert_eq!(read(Datatype::Fp32, &[], "[7]"), Ok(Data::Fp32(vec![7.0])));
        assert_eq!(read(Datatype::Fp32, &[1, 2, 1], "[[[1], [2]]]"), Ok(Data::Fp32(vec![1.0, 2.0])));
    }

    #[test]
    fn what_json_cannot_carry_is_an_error() {
        let mut out = Vec::new();
        assert_eq!(write_data(&Data::Fp32(vec![1.0, f32::NAN]), &mut out), Err(NotJson::NonFinite));
        assert_eq!(write_data(&Data::Fp64(vec![f64::INFINITY]), &mut out), Err(NotJson::NonFinite));
        assert_eq!(write_data(&Data::Fp16(vec![f16::ONE]), &mut out), Err(NotJson::Datatype(Datatype::Fp16)));
        assert_eq!(write_data(&Data::Bytes(vec![Bytes::from_static(&[0xff])]), &mut out), Err(NotJson::Text));
    }
}
