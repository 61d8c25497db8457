//! Records of a file, and the names of their columns.

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use engine::{Signature, tensor::Tensor};
use problem::{FieldError, Problem};

use super::{npy, npz, parquet};
use crate::features::{self, Array, Format};

/// Faults of a sample that are told.
const FAULTS_MAX: usize = 20;

/// A file that was not looked into yet.
pub(super) struct SampleFile {
    /// As messages show it.
    path: String,
    kind: Kind,
    bytes: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Csv,
    Npy,
    Npz,
    Parquet,
}

/// The records for a golden example.
pub(super) struct Sample {
    records: Records,
    /// The names of columns: the first line of CSV, the columns of a table.
    header: Vec<String>,
}

enum Records {
    Text(Format, Bytes),
    Arrays(Vec<Array>),
}

// === impl SampleFile ===

impl SampleFile {
    pub(super) fn new(path: &Path, bytes: Bytes) -> Result<Self, String> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let kind = match extension.as_deref() {
            Some("json") => Kind::Json,
            Some("csv") => Kind::Csv,
            Some("npy") => Kind::Npy,
            Some("npz") => Kind::Npz,
            Some("parquet") => Kind::Parquet,
            _ => {
                let path = path.display();
                return Err(format!("{path}: a sample is a .json, .csv, .npy, .npz or .parquet file"));
            }
        };
        Ok(Self { path: path.display().to_string(), kind, bytes })
    }

    /// Looks into it, which is for a process that has given up what it does not need.
    pub(super) fn read(self) -> Result<Sample, String> {
        let Self { path, kind, bytes } = self;
        let in_file = |detail: String| format!("{path}: {detail}");
        let records = match kind {
            Kind::Json => Records::Text(Format::Json, bytes),
            Kind::Csv => Records::Text(Format::Csv, bytes),
            Kind::Npy => {
                let tensor = npy::parse(&bytes).map_err(in_file)?;
                Records::Arrays(vec![Array { name: None, tensor, missing: BTreeSet::new() }])
            }
            Kind::Npz => Records::Arrays(npz::parse(&bytes).map_err(in_file)?),
            Kind::Parquet => Records::Arrays(parquet::parse(&bytes).map_err(in_file)?),
        };
        let header = match &records {
            Records::Text(Format::Json, _) => Vec::new(),
            Records::Text(Format::Csv, bytes) => {
                features::csv_header(bytes).map_err(|error| in_file(error.to_string()))?
            }
            Records::Arrays(arrays) => arrays.iter().filter_map(|array| array.name.clone()).collect(),
        };
        let is_no_name = |name: &&String| name.trim().is_empty() || name.parse::<f64>().is_ok();
        if let Some(name) = header.iter().find(is_no_name) {
            let place = if kind == Kind::Csv { "its first line has" } else { "it has a column" };
            return Err(in_file(format!(
                "{place} {name:?}, which is no name; a sample begins with the names of its columns, and has none for an index"
            )));
        }
        Ok(Sample { records, header })
    }
}

// === impl Sample ===

impl Sample {
    /// The shape of a model's only input by these records, if that is known before they are read.
    pub(super) fn shape(&self) -> Option<Vec<i64>> {
        if let Records::Arrays(arrays) = &self.records
            && let [array] = &**arrays
        {
            let [_, of_record @ ..] = array.tensor.shape() else { return None };
            return Some([&[-1], of_record].concat());
        }
        let columns = i64::try_from(self.header.len()).ok().filter(|columns| *columns > 0)?;
        Some(vec![-1, columns])
    }

    /// The header names the columns of a model that has one matrix of as many, and no names of its own.
    pub(super) fn name_columns(&self, signature: &mut Signature) {
        let [input] = &mut *signature.inputs else { return };
        let [_, width] = &*input.shape else { return };
        let is_as_wide = i64::try_from(self.header.len()) == Ok(*width) && *width > 1;
        let has_names = !input.columns.is_empty() || self.header.contains(&format!("{}_0", input.name));
        if is_as_wide && !has_names {
            input.columns.clone_from(&self.header);
        }
    }

    /// As the model takes them, or everything that is wrong with them.
    pub(super) fn tensors(&self, signature: &Signature) -> Result<Vec<Tensor>, Vec<String>> {
        let tensors = match &self.records {
            Records::Text(format, bytes) => features::read_records(bytes, *format, signature),
            Records::Arrays(arrays) => features::read_arrays(arrays, signature),
        };
        tensors.map_err(|problem| faults(&problem))
    }
}

fn faults(problem: &Problem) -> Vec<String> {
    let errors = problem.field_errors();
    if errors.is_empty() {
        return vec![format!("the sample does not fit the model: {problem}")];
    }
    let fault = |error: &FieldError| {
        let (field, detail) = (error.field(), error.detail());
        match error.row_index() {
            Some(row) => format!("the sample does not fit the model: {field:?}, record {row}: {detail}"),
            None => format!("the sample does not fit the model: {field:?}: {detail}"),
        }
    };
    errors.iter().take(FAULTS_MAX).map(fault).collect()
}
