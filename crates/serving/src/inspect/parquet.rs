//! `.parquet`: a table, column by column, as pandas, Polars and Spark write it.

use std::{
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
};

use bytes::Bytes;
use engine::tensor::{Data, Tensor};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};

use super::npy::UNPACKED_BYTES_MAX;
use crate::features::{Array, ROWS_MAX};

const COLUMNS_MAX: usize = 4096;

/// A column on its way.
#[derive(Default)]
struct Column {
    name: String,
    /// Of the type of the first value that is there; values before it are counted in `missing`.
    data: Option<Data>,
    missing: BTreeSet<usize>,
}

/// The columns by their names.
pub(super) fn parse(file: &Bytes) -> Result<Vec<Array>, String> {
    // The library panics at some files that are no Parquet files but begin and end like one.
    panic::set_hook(Box::new(|_| {}));
    let parsed = panic::catch_unwind(AssertUnwindSafe(|| columns(file)));
    drop(panic::take_hook());
    parsed.unwrap_or_else(|_| Err("it is damaged: its parts contradict each other".to_owned()))
}

fn columns(file: &Bytes) -> Result<Vec<Array>, String> {
    let unread =
        |error: parquet::errors::ParquetError| format!("{error}; save it again with pandas.DataFrame.to_parquet");
    let reader = SerializedFileReader::new(file.clone()).map_err(unread)?;
    let metadata = reader.metadata().file_metadata();
    let (rows, fields) = (metadata.num_rows(), metadata.schema_descr().root_schema().get_fields());
    if usize::try_from(rows).is_ok_and(|rows| rows > ROWS_MAX) || fields.len() > COLUMNS_MAX {
        return Err(format!(
            "it has {rows} rows and {} columns, more than {ROWS_MAX} or {COLUMNS_MAX}: give fewer rows",
            fields.len()
        ));
    }
    let column =
        |field: &parquet::schema::types::TypePtr| Column { name: field.name().to_owned(), ..Column::default() };
    let mut columns: Vec<Column> = fields.iter().map(column).collect();
    let mut left = UNPACKED_BYTES_MAX;
    let mut count = 0;
    for row in reader.get_row_iter(None).map_err(unread)? {
        if count >= ROWS_MAX {
            return Err(format!("it has more than {ROWS_MAX} rows: give fewer rows"));
        }
        put(&row.map_err(unread)?, count, &mut columns, &mut left)?;
        count += 1;
    }
    columns.into_iter().map(|column| column.finish(count)).collect()
}

fn put(row: &Row, number: usize, columns: &mut [Column], left: &mut u64) -> Result<(), String> {
    for ((_, field), column) in row.get_column_iter().zip(columns) {
        let length = match field {
            Field::Str(text) => text.len(),
            Field::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        // Short files may repeat a long word many times.
        *left = left
            .checked_sub(8 + length as u64)
            .ok_or_else(|| format!("its values have more than {UNPACKED_BYTES_MAX} bytes: give fewer rows"))?;
        column.put(number, field).map_err(|detail| format!("the column {:?}, row {number}: {detail}", column.name))?;
    }
    Ok(())
}

// === impl Column ===

impl Column {
    fn put(&mut self, row: usize, field: &Field) -> Result<(), String> {
        if matches!(field, Field::Null) {
            self.missing.insert(row);
            return Ok(());
        }
        let data = self.data.get_or_insert_with(|| empty(field));
        match (data, field) {
            (Data::Bool(values), Field::Bool(value)) => set(values, row, *value),
            (Data::Int8(values), Field::Byte(value)) => set(values, row, *value),
            (Data::Int16(values), Field::Short(value)) => set(values, row, *value),
            (Data::Int32(values), Field::Int(value)) => set(values, row, *value),
            (Data::Int64(values), Field::Long(value)) => set(values, row, *value),
            (Data::Uint8(values), Field::UByte(value)) => set(values, row, *value),
            (Data::Uint16(values), Field::UShort(value)) => set(values, row, *value),
            (Data::Uint32(values), Field::UInt(value)) => set(values, row, *value),
            (Data::Uint64(values), Field::ULong(value)) => set(values, row, *value),
            (Data::Fp16(values), Field::Float16(value)) => set(values, row, *value),
            (Data::Fp32(values), Field::Float(value)) => set(values, row, *value),
            (Data::Fp64(values), Field::Double(value)) => set(values, row, *value),
            (Data::Bytes(values), Field::Str(text)) => set(values, row, Bytes::copy_from_slice(text.as_bytes())),
            (Data::Bytes(values), Field::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes.data()).map_err(|_| "its bytes are no text".to_owned())?;
                set(values, row, Bytes::copy_from_slice(text.as_bytes()));
            }
            (_, Field::ListInternal(_) | Field::MapInternal(_) | Field::Group(_)) => {
                return Err("it holds lists or records: give it as an array in an .npz".to_owned());
            }
            _ => return Err("it holds dates, times or decimals: convert them to what the model takes".to_owned()),
        }
        Ok(())
    }

    fn finish(self, rows: usize) -> Result<Array, String> {
        let mut data = self.data.unwrap_or(Data::Fp64(Vec::new()));
        if let Some(last) = rows.checked_sub(1).filter(|_| data.len() < rows) {
            fill(&mut data, last);
        }
        let shape = vec![i64::try_from(rows).map_err(|error| error.to_string())?];
        let tensor = Tensor::new(shape, data).ok_or_else(|| format!("the column {:?} has other rows", self.name))?;
        Ok(Array { name: Some(self.name), tensor, missing: self.missing })
    }
}

fn empty(field: &Field) -> Data {
    match field {
        Field::Bool(_) => Data::Bool(Vec::new()),
        Field::Byte(_) => Data::Int8(Vec::new()),
        Field::Short(_) => Data::Int16(Vec::new()),
        Field::Int(_) => Data::Int32(Vec::new()),
        Field::Long(_) => Data::Int64(Vec::new()),
        Field::UByte(_) => Data::Uint8(Vec::new()),
        Field::UShort(_) => Data::Uint16(Vec::new()),
        Field::UInt(_) => Data::Uint32(Vec::new()),
        Field::ULong(_) => Data::Uint64(Vec::new()),
        Field::Float16(_) => Data::Fp16(Vec::new()),
        Field::Float(_) => Data::Fp32(Vec::new()),
        Field::Double(_) => Data::Fp64(Vec::new()),
        _ => Data::Bytes(Vec::new()),
    }
}

/// Sets the value of a row; rows before it that have none get one that is never read.
fn set<T: Clone + Default>(values: &mut Vec<T>, row: usize, value: T) {
    values.resize(row, T::default());
    values.push(value);
}

/// The same of the rows at the end.
fn fill(data: &mut Data, last: usize) {
    match data {
        Data::Bool(values) => set(values, last, false),
        Data::Int8(values) => set(values, last, 0),
        Data::Int16(values) => set(values, last, 0),
        Data::Int32(values) => set(values, last, 0),
        Data::Int64(values) => set(values, last, 0),
        Data::Uint8(values) => set(values, last, 0),
        Data::Uint16(values) => set(values, last, 0),
        Data::Uint32(values) => set(values, last, 0),
        Data::Uint64(values) => set(values, last, 0),
        Data::Fp16(values) => set(values, last, half::f16::ZERO),
        Data::Bf16(values) => set(values, last, half::bf16::ZERO),
        Data::Fp32(values) => set(values, last, 0.0),
        Data::Fp64(values) => set(values, last, 0.0),
        Data::Bytes(values) => set(values, last, Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use proptest::prelude::*;

    use super::*;

    /// A table with a number, a word and a whole number, which may be missing.
    fn table(compression: Compression, words: &[Option<&str>]) -> Bytes {
        let schema = "message m { required double x; optional binary word (UTF8); optional int64 n; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let given: Vec<i16> = words.iter().map(|word| i16::from(word.is_some())).collect();
        let numbers: Vec<f64> = (0_u8..).take(words.len()).map(|row| f64::from(row) / 4.0).collect();
        let wholes: Vec<i64> = (0..).zip(words).filter(|(_, word)| word.is_some()).map(|(row, _)| row).collect();
        let texts: Vec<ByteArray> = words.iter().flatten().map(|word| ByteArray::from(*word)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&given), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&wholes, Some(&given), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    #[test]
    fn columns_are_arrays_and_nulls_are_missing() {
        for compression in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(parquet::basic::ZstdLevel::default())]
        {
            let arrays = parse(&table(compression, &[None, Some("b"), None])).unwrap();
            let names: Vec<Option<&str>> = arrays.iter().map(|array| array.name.as_deref()).collect();
            assert_eq!(names, [Some("x"), Some("word"), Some("n")]);
            let [x, word, n] = &*arrays else { panic!("{arrays:?}") };
            assert_eq!((x.tensor.data(), x.missing.len()), (&Data::Fp64(vec![0.0, 0.25, 0.5]), 0));
            assert_eq!(word.tensor.data(), &Data::Bytes(vec!["".into(), "b".into(), "".into()]));
            assert_eq!((n.tensor.data(), &n.missing), (&Data::Int64(vec![0, 1, 0]), &BTreeSet::from([0, 2])));
        }
    }

    #[test]
    fn a_long_word_is_not_repeated_without_end() {
        let word = "w".repeat(1 << 20);
        let bomb = table(Compression::SNAPPY, &vec![Some(&*word); 100]);
        assert!(bomb.len() < 8 << 20);
        assert!(parse(&bomb).unwrap_err().contains("give fewer rows"));
    }

    #[test]
    fn what_is_no_table_is_refused_in_a_sentence() {
        for file in [&b""[..], b"PAR1", b"PAR1\0\0\0\0PAR1", b"PAR1\xff\xff\xff\x7fPAR1"] {
            let fault = parse(&Bytes::from_static(file)).unwrap_err();
            assert!(fault.contains("to_parquet"), "{fault}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn malformed_files_never_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), is_cut in any::<bool>()) {
            let mut file = table(Compression::SNAPPY, &[None, Some("b"), None]).to_vec();
            let at = at.index(file.len());
            match file.get_mut(at) {
                Some(place) if !is_cut => *place = byte,
                _ => file.truncate(at),
            }
            let _judged = parse(&file.into());
        }
    }
}
