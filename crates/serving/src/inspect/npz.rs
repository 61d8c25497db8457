//! `.npz`: several arrays of numpy in a ZIP archive.

use std::{
    collections::BTreeSet,
    io::{Cursor, Read as _},
};

use bytes::Bytes;
use zip::ZipArchive;

use super::npy::{self, UNPACKED_BYTES_MAX};
use crate::features::Array;

/// Each may be a column of a table.
const ARRAYS_MAX: usize = 4096;
/// What numpy calls an array that was given without a name.
const UNNAMED: &str = "arr_0";

/// The arrays by their names; one alone that numpy had to name has none.
pub(super) fn parse(file: &Bytes) -> Result<Vec<Array>, String> {
    let mut archive = ZipArchive::new(Cursor::new(file))
        .map_err(|error| format!("it is no .npz file ({error}): save it with numpy.savez"))?;
    let count = archive.len();
    if count > ARRAYS_MAX {
        return Err(format!("it has {count} arrays, more than {ARRAYS_MAX}"));
    }
    let mut left = UNPACKED_BYTES_MAX;
    let mut arrays = Vec::new();
    for index in 0..count {
        let mut entry = archive.by_index(index).map_err(|error| format!("entry {index}: {error}"))?;
        let path = entry.name().map_err(|error| format!("entry {index}: {error}"))?.to_string();
        let shown: String = path.chars().take(100).collect();
        let name = path.strip_suffix(".npy").ok_or_else(|| format!("{shown:?} in it is no array"))?;
        let mut bytes = Vec::new();
        // What the archive declares of a length is not believed.
        let read = entry.by_ref().take(left.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| format!("{shown:?}: {error}"))?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| format!("its arrays have more than {UNPACKED_BYTES_MAX} bytes: give fewer rows"))?;
        let tensor = npy::parse(&bytes).map_err(|detail| format!("the array {shown:?}: {detail}"))?;
        arrays.push(Array { name: Some(name.to_owned()), tensor, missing: BTreeSet::new() });
    }
    if let [array] = &mut *arrays {
        array.name.take_if(|name| name == UNNAMED);
    }
    Ok(arrays)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use engine::tensor::Data;
    use proptest::prelude::*;
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

    use super::*;
    use crate::inspect::npy::tests::npy;

    fn npz(arrays: &[(&str, &[u8])], method: CompressionMethod) -> Bytes {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            archive
                .start_file(*name, SimpleFileOptions::default().compression_method(method).large_file(true))
                .unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap().into_inner().into()
    }

    #[test]
    fn stored_and_compressed_arrays_are_read() {
        let array = npy("|u1", "False", "(2,)", &[1, 2]);
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let arrays = parse(&npz(&[("a.npy", &array), ("b.c.npy", &array)], method)).unwrap();
            let names: Vec<Option<&str>> = arrays.iter().map(|array| array.name.as_deref()).collect();
            assert_eq!(names, [Some("a"), Some("b.c")]);
            assert_eq!(
                arrays.iter().map(|array| array.tensor.data()).collect::<Vec<_>>(),
                [&Data::Uint8(vec![1, 2]); 2]
            );
            assert_eq!(parse(&npz(&[("arr_0.npy", &array)], method)).unwrap().first().unwrap().name, None);
        }
    }

    #[test]
    fn what_is_no_archive_of_arrays_is_refused_in_a_sentence() {
        let fault = |file: &Bytes| parse(file).unwrap_err();
        assert!(fault(&Bytes::from_static(b"\x80\x04pickle")).contains("numpy.savez"));
        assert!(fault(&npz(&[("a.txt", b"x")], CompressionMethod::Stored)).contains("\"a.txt\" in it is no array"));
        assert!(fault(&npz(&[("a.npy", b"x")], CompressionMethod::Stored)).contains("the array \"a.npy\""));
        assert_eq!(parse(&npz(&[], CompressionMethod::Stored)), Ok(vec![]));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let zeros = vec![0; usize::try_from(UNPACKED_BYTES_MAX).unwrap() + 1];
        let bomb = npz(&[("a.npy", &zeros)], CompressionMethod::Deflated);
        assert!(bomb.len() < 1 << 18);
        assert!(parse(&bomb).unwrap_err().contains("give fewer rows"));
    }

    proptest! {
        #[test]
        fn malformed_archives_never_panic(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
            let array = npy("|u1", "False", "(2,)", &[1, 2]);
            let mut file = npz(&[("a.npy", &array)], CompressionMethod::Deflated).to_vec();
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            let _judged = parse(&file.clone().into());
            file.truncate(cut);
            let _judged = parse(&file.into());
        }
    }
}
