//! `.npy`: one array of numpy, format versions 1 to 3.
//!
//! Read here and not by a library: the header is one line, and the crates that read it bring a parser of Python literals with them. An
//! array of Python objects is a pickle and never read.

use bytes::Bytes;
use engine::tensor::{Data, Datatype, Tensor, decode_binary, element_count};

/// What the values of a compressed file may take.
pub(super) const UNPACKED_BYTES_MAX: u64 = 64 << 20;
const MAGIC: &[u8] = b"\x93NUMPY";
const HEADER_BYTES_MAX: usize = 1 << 16;
const RANK_MAX: usize = 16;
/// Strings of no length.
const EMPTY_MAX: usize = 1 << 16;

/// What the header says of the elements.
struct Header<'a> {
    /// `<f4`: byte order, kind and length.
    descr: &'a str,
    is_fortran: bool,
    shape: Vec<i64>,
}

/// How the elements of an array are written.
struct Element {
    datatype: Datatype,
    bytes: usize,
    /// Of what a byte order reverses.
    unit: usize,
    is_big_endian: bool,
    is_utf32: bool,
}

/// The array in row-major order.
pub(super) fn parse(file: &[u8]) -> Result<Tensor, String> {
    let (header, raw) = split(file)?;
    let Header { descr, is_fortran, shape } = Header::parse(header)?;
    let element = Element::parse(descr)?;
    let count = element_count(&shape).ok_or_else(|| format!("its shape {shape:?} has too many elements"))?;
    // Empty strings take no bytes, however many there are.
    if count.checked_mul(element.bytes) != Some(raw.len()) || count > raw.len().max(EMPTY_MAX) {
        return Err(format!("it has {} bytes of elements, but not the {shape:?} of {descr:?} it declares", raw.len()));
    }
    let mut raw = if is_fortran { row_major(raw, element.bytes, count, &shape)? } else { raw.to_vec() };
    if element.is_big_endian {
        raw.chunks_mut(element.unit).for_each(<[u8]>::reverse);
    }
    element.decode(shape, count, raw)
}

fn split(file: &[u8]) -> Result<(&str, &[u8]), String> {
    let cut = || "it ends within its header".to_owned();
    let rest = file.strip_prefix(MAGIC).ok_or("it is no .npy file: save it with numpy.save")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match version {
        [1, _] => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        [2 | 3, _] => rest
            .split_first_chunk()
            .map(|(length, rest)| (usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX), rest)),
        [major, minor] => return Err(format!("its format is version {major}.{minor}, and 1 to 3 are read")),
    }
    .ok_or_else(cut)?;
    if length > HEADER_BYTES_MAX {
        return Err(format!("its header has {length} bytes, more than {HEADER_BYTES_MAX}"));
    }
    let (header, raw) = rest.split_at_checked(length).ok_or_else(cut)?;
    Ok((std::str::from_utf8(header).map_err(|error| error.to_string())?, raw))
}

/// The elements of an array that was written column by column.
fn row_major(raw: &[u8], bytes: usize, count: usize, shape: &[i64]) -> Result<Vec<u8>, String> {
    let lengths: Vec<usize> = shape.iter().filter_map(|length| usize::try_from(*length).ok()).collect();
    let place = |mut index: usize| {
        // From the last dimension, which changes fastest here and slowest there.
        let mut stride: usize = lengths.iter().product();
        lengths.iter().rev().fold(0, |at, length| {
            stride /= length;
            let position = index % length;
            index /= length;
            at + position * stride
        })
    };
    let mut ordered = Vec::with_capacity(raw.len());
    for index in 0..count {
        let start = place(index).saturating_mul(bytes);
        let element = raw.get(start..start.saturating_add(bytes));
        ordered.extend_from_slice(element.ok_or("its elements do not fill its shape")?);
    }
    Ok(ordered)
}

// === impl Header ===

impl<'a> Header<'a> {
    /// As numpy writes it: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &'a str) -> Result<Self, String> {
        let unread = || {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            format!("its header is not as numpy writes it: {}", shown.trim_end())
        };
        let value = |key: &str| Some(text.split_once(&format!("'{key}':"))?.1.trim_start());
        let descr = value("descr").ok_or_else(unread)?;
        if descr.starts_with('[') {
            return Err(
                "its elements are records of several fields: save each field as an array of its own in an .npz"
                    .to_owned(),
            );
        }
        let descr = descr.strip_prefix('\'').and_then(|text| text.split_once('\'')).ok_or_else(unread)?.0;
        let order = value("fortran_order").ok_or_else(unread)?;
        let is_fortran = match (order.starts_with("True"), order.starts_with("False")) {
            (false, false) => return Err(unread()),
            (is_true, _) => is_true,
        };
        let shape = value("shape").and_then(|text| text.strip_prefix('(')?.split_once(')')).ok_or_else(unread)?.0;
        let lengths = shape.split(',').map(str::trim).filter(|length| !length.is_empty());
        let shape: Vec<i64> = lengths
            .map(|length| length.parse().ok().filter(|it| *it >= 0))
            .collect::<Option<_>>()
            .ok_or_else(unread)?;
        if shape.len() > RANK_MAX {
            return Err(format!("it has {} dimensions, more than {RANK_MAX}", shape.len()));
        }
        Ok(Self { descr, is_fortran, shape })
    }
}

// === impl Element ===

impl Element {
    fn parse(descr: &str) -> Result<Self, String> {
        let refused = || {
            let detail = match descr.trim_start_matches(['<', '>', '|', '=']).chars().next() {
                Some('O') => {
                    "Python objects, which only a pickle can hold: convert them with .astype(str) or .astype('float32')"
                }
                Some('M' | 'm') => "dates or times: convert them to what the model takes",
                Some('c') => "complex numbers, which no model takes",
                _ => "nothing that is read here: booleans, integers, floats and strings are",
            };
            format!("its elements ({descr:?}) are {detail}")
        };
        let (order, kind) = descr.split_at_checked(1).ok_or_else(refused)?;
        let (kind, length) = kind.split_at_checked(1).ok_or_else(refused)?;
        let length: usize = length.parse().map_err(|_| refused())?;
        let (datatype, unit) = match (kind, length) {
            ("b", 1) => (Datatype::Bool, 1),
            ("i", 1) => (Datatype::Int8, 1),
            ("i", 2) => (Datatype::Int16, 2),
            ("i", 4) => (Datatype::Int32, 4),
            ("i", 8) => (Datatype::Int64, 8),
            ("u", 1) => (Datatype::Uint8, 1),
            ("u", 2) => (Datatype::Uint16, 2),
            ("u", 4) => (Datatype::Uint32, 4),
            ("u", 8) => (Datatype::Uint64, 8),
            ("f", 2) => (Datatype::Fp16, 2),
            ("f", 4) => (Datatype::Fp32, 4),
            ("f", 8) => (Datatype::Fp64, 8),
            ("U", _) => (Datatype::Bytes, 4),
            ("S", _) => (Datatype::Bytes, 1),
            _ => return Err(refused()),
        };
        let is_big_endian = match order {
            "<" | "|" => false,
            ">" => true,
            _ => return Err(refused()),
        };
        let is_utf32 = kind == "U";
        let bytes = length.checked_mul(if is_utf32 { 4 } else { 1 }).ok_or_else(refused)?;
        Ok(Self { datatype, bytes, unit, is_big_endian, is_utf32 })
    }

    fn decode(&self, shape: Vec<i64>, count: usize, raw: Vec<u8>) -> Result<Tensor, String> {
        if self.datatype != Datatype::Bytes {
            return decode_binary(self.datatype, shape, &raw.into()).map_err(|fault| fault.to_string());
        }
        let strings: Vec<Bytes> = match self.bytes {
            0 => vec![Bytes::new(); count],
            bytes => raw.chunks(bytes).map(|element| self.string(element)).collect::<Result<_, _>>()?,
        };
        Tensor::new(shape, Data::Bytes(strings)).ok_or_else(|| "its elements do not fill its shape".to_owned())
    }

    /// Without the zeros that it was filled up with.
    fn string(&self, element: &[u8]) -> Result<Bytes, String> {
        let text = if self.is_utf32 {
            let (units, _) = element.as_chunks::<4>();
            units.iter().map(|unit| char::from_u32(u32::from_le_bytes(*unit))).collect::<Option<String>>()
        } else {
            std::str::from_utf8(element).ok().map(str::to_owned)
        };
        let text = text.ok_or("a string is not Unicode")?;
        let text = text.trim_end_matches('\0');
        if text.contains('\0') {
            return Err("a string has a NUL, which the engine cannot hold".to_owned());
        }
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `numpy.save` writes.
    pub(in crate::inspect) fn npy(descr: &str, order: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        let filled = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
        header.push_str(&" ".repeat(filled - header.len() - 1));
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), elements].concat()
    }

    fn parsed(descr: &str, order: &str, shape: &str, elements: &[u8]) -> (Vec<i64>, Data) {
        let tensor = parse(&npy(descr, order, shape, elements)).unwrap();
        (tensor.shape().to_vec(), tensor.data().clone())
    }

    #[test]
    fn arrays_are_read_in_any_order_of_bytes_and_elements() {
        let floats: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(parsed("<f4", "False", "(2,)", &floats), (vec![2], Data::Fp32(vec![1.5, -2.0])));
        let numbers: Vec<u8> = [1_i16, 2, 3, 4, 5, 6].iter().flat_map(|it| it.to_be_bytes()).collect();
        assert_eq!(parsed(">i2", "False", "(2, 3)", &numbers).1, Data::Int16(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(parsed(">i2", "True", "(2, 3)", &numbers).1, Data::Int16(vec![1, 3, 5, 2, 4, 6]));
        assert_eq!(parsed("|u1", "True", "(2, 1, 2)", &[1, 2, 3, 4]).1, Data::Uint8(vec![1, 3, 2, 4]));
        assert_eq!(parsed("|b1", "False", "()", &[1]), (vec![], Data::Bool(vec![true])));
        assert_eq!(parsed("<f8", "False", "(0, 4)", &[]), (vec![0, 4], Data::Fp64(vec![])));
    }

    #[test]
    fn strings_lose_what_fills_them_up() {
        let utf32: Vec<u8> = ["é", "ab"]
            .iter()
            .flat_map(|word| {
                let mut units: Vec<u32> = word.chars().map(u32::from).collect();
                units.resize(2, 0);
                units.into_iter().flat_map(u32::to_le_bytes)
            })
            .collect();
        let words = Data::Bytes(vec!["é".into(), "ab".into()]);
        assert_eq!(parsed("<U2", "False", "(2,)", &utf32).1, words);
        assert_eq!(parsed("|S3", "False", "(2,)", b"\xc3\xa9\0ab\0").1, words);
        assert_eq!(parsed("<U0", "False", "(2,)", b"").1, Data::Bytes(vec![Bytes::new(), Bytes::new()]));
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_a_sentence() {
        for (descr, order, shape, words) in [
            ("|O", "False", "(1,)", "Python objects"),
            ("<M8[ns]", "False", "(1,)", "dates"),
            ("<c8", "False", "(1,)", "complex"),
            ("<f16", "False", "(1,)", "nothing that is read"),
            ("é", "False", "(1,)", "nothing that is read"),
            ("", "False", "(1,)", "nothing that is read"),
            ("<f4", "False", "(2,)", "it declares"),
            ("<f4", "False", "(9223372036854775807, 9223372036854775807)", "too many elements"),
            ("<U0", "False", "(9223372036854775807,)", "it declares"),
            ("<U9223372036854775807", "False", "(1,)", "nothing that is read"),
            ("<f4", "False", "(-1,)", "not as numpy writes it"),
            ("<f4", "Maybe", "(1,)", "not as numpy writes it"),
            ("<f4", "True", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)", "17 dimensions"),
            ("|S4", "False", "(1,)", "not Unicode"),
            ("|b1", "False", "(4,)", "BOOL"),
        ] {
            let fault = parse(&npy(descr, order, shape, &[0xff, 0, 1, 2])).unwrap_err();
            assert!(fault.contains(words) && !fault.contains('\n'), "{descr} {shape}: {fault}");
        }
        assert!(parse(&npy("<U0", "True", "(9223372036854775807,)", &[])).unwrap_err().contains("it declares"));
        assert!(parse(b"\x80\x04\x95pickle").unwrap_err().contains("numpy.save"));
        assert!(parse(b"\x93NUMPY\x01\x00\xff\xff{").unwrap_err().contains("ends within"));
        assert!(parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").unwrap_err().contains("more than"));
        assert!(parse(b"\x93NUMPY\x09\x00").unwrap_err().contains("version 9.0"));
        let fields = npy("x", "False", "(1,)", &[]);
        let fields = String::from_utf8_lossy(fields.get(10..).unwrap()).replace("'x'", "[('a', '<f4')]");
        assert!(Header::parse(&fields).err().unwrap().contains("several fields"));
    }

    proptest! {
        #[test]
        fn malformed_files_never_panic(at in 0_usize..140, byte in any::<u8>(), cut in 0_usize..140) {
            let mut file = npy("<f4", "True", "(1, 2)", &[0; 8]);
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            let _judged = parse(&file);
            file.truncate(cut);
            let _judged = parse(&file);
        }

        #[test]
        fn random_headers_never_panic(descr in ".{0,8}", shape in "\\([0-9, -]{0,40}\\)", order in "True|False") {
            let _judged = parse(&npy(&descr, &order, &shape, &[0; 16]));
        }
    }
}
