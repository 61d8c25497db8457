//! Is this file an ONNX model? Judged by its bytes before any library sees it.
//!
//! Pickle and its relatives run code when they are loaded; they are named and refused. Everything else must be, from
//! the first byte to the last, a `ModelProto`: known fields, right wire types, no field that ends beyond the file.
//! This is no validation of the graph, which ONNX Runtime does; it makes truncation and foreign files clear faults.

/// What a file that is no ONNX model is, by its first bytes.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\x80\x02", "a pickle, which runs code when loaded"),
    (b"\x80\x03", "a pickle, which runs code when loaded"),
    (b"\x80\x04", "a pickle, which runs code when loaded"),
    (b"\x80\x05", "a pickle, which runs code when loaded"),
    (b"(lp", "a pickle, which runs code when loaded"),
    (b"(dp", "a pickle, which runs code when loaded"),
    (b"(i", "a pickle, which runs code when loaded"),
    (b"cos\n", "a pickle, which runs code when loaded"),
    (b"c__builtin__", "a pickle, which runs code when loaded"),
    (b"PK\x03\x04", "a zip archive, as PyTorch, Keras and NumPy write them (they can hold pickles)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x78\x9c", "a zlib stream, as joblib writes compressed pickles"),
    (b"\x78\x01", "a zlib stream, as joblib writes compressed pickles"),
    (b"\x78\xda", "a zlib stream, as joblib writes compressed pickles"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
    (b"<", "an XML or HTML file"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
];

/// Field number, wire type and meaning of `onnx.ModelProto`.
const FIELDS: &[(u64, u64, &str)] = &[
    (1, VARINT, "ir_version"),
    (2, LENGTH, "producer_name"),
    (3, LENGTH, "producer_version"),
    (4, LENGTH, "domain"),
    (5, VARINT, "model_version"),
    (6, LENGTH, "doc_string"),
    (7, LENGTH, "graph"),
    (8, LENGTH, "opset_import"),
    (14, LENGTH, "metadata_props"),
    (20, LENGTH, "training_info"),
    (25, LENGTH, "functions"),
    (26, LENGTH, "configuration"),
];

const VARINT: u64 = 0;
const LENGTH: u64 = 2;

/// Refuses whatever is not an ONNX model, saying what it is instead.
pub(crate) fn check_onnx(file: &[u8]) -> Result<(), String> {
    if file.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if let Some((_, kind)) = FOREIGN.iter().find(|(magic, _)| file.starts_with(magic)) {
        return Err(format!("not an ONNX model but {kind}; only ONNX is served, so export the model to it"));
    }
    if file.get(4..8) == Some(b"ORTM") || file.get(4..8) == Some(b"TFL3") {
        return Err(
            "not an ONNX model but a FlatBuffers file (ORT format or TensorFlow Lite); only ONNX is served, so export the model to it".to_owned()
        );
    }
    check_fields(file)
}

fn check_fields(file: &[u8]) -> Result<(), String> {
    let mut at = 0;
    let (mut has_version, mut has_graph) = (false, false);
    while at < file.len() {
        let start = at;
        let key = varint(file, &mut at)
            .ok_or_else(|| format!("not an ONNX model: it ends inside a field at byte {start}"))?;
        let Some((number, wire, name)) = FIELDS.iter().find(|(number, _, _)| *number == key >> 3) else {
            return Err(format!("not an ONNX model: unknown field at byte {start}"));
        };
        if *wire != key & 7 {
            return Err(format!("not an ONNX model: {name} has a wrong wire type at byte {start}"));
        }
        let cut = || format!("the ONNX model is cut off: it ends inside {name}, which begins at byte {start}");
        let value = varint(file, &mut at).ok_or_else(cut)?;
        if *wire == LENGTH {
            let end =
                usize::try_from(value).ok().and_then(|length| at.checked_add(length)).filter(|end| *end <= file.len());
            at = end.ok_or_else(cut)?;
        }
        has_version |= *number == 1;
        has_graph |= *number == 7;
    }
    if has_version && has_graph { Ok(()) } else { Err("not an ONNX model: it has no graph".to_owned()) }
}

/// A number in base 128, as protocol buffers have it.
pub(super) fn varint(file: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *file.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// ir_version 8, producer "x", a graph of five bytes, opset_import of two.
    const MODEL: &[u8] = &[0x08, 8, 0x12, 1, b'x', 0x3a, 5, 1, 2, 3, 4, 5, 0x42, 2, 0x10, 13];

    #[test]
    fn onnx_is_accepted_and_the_rest_named() {
        assert_eq!(check_onnx(MODEL), Ok(()));
        assert!(check_onnx(b"\x80\x04\x95\x10\0\0\0\0\0\0\0").unwrap_err().contains("pickle"));
        assert!(check_onnx(b"PK\x03\x04....").unwrap_err().contains("zip"));
        assert!(check_onnx(b"").unwrap_err().contains("empty"));
        assert!(check_onnx(b"\x08\x08").unwrap_err().contains("no graph"));
        assert!(check_onnx(b"{\"a\": 1}").unwrap_err().contains("not an ONNX model"));
    }

    #[test]
    fn every_truncation_is_refused() {
        for length in 0..MODEL.len() {
            // Cut exactly before the opset import, it is a whole model still, and the digest is what refuses it.
            assert_eq!(check_onnx(&MODEL[..length]).is_ok(), length == 12, "{length}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _judged = check_onnx(&bytes);
        }
    }
}
