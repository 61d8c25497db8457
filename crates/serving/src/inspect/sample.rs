//! Records of a file, and the names of their columns.

use std::path::Path;

use bytes::Bytes;
use engine::{Signature, tensor::Tensor};
use problem::{FieldError, Problem};

use crate::features::{self, Format};

/// Faults of a sample that are told.
const LINES_MAX: usize = 20;

/// The records for a golden example.
pub(super) struct Sample {
    format: Format,
    bytes: Bytes,
    /// The first line, of CSV.
    header: Vec<String>,
}

// === impl Sample ===

impl Sample {
    pub(super) fn new(path: &Path, bytes: Bytes) -> Result<Self, String> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let format = match extension.as_deref() {
            Some("json") => Format::Json,
            Some("csv") => Format::Csv,
            _ => return Err(format!("{}: a sample is a .json or a .csv file", path.display())),
        };
        let header = match format {
            Format::Csv => features::csv_header(&bytes).map_err(|detail| format!("{}: {detail}", path.display()))?,
            Format::Json => Vec::new(),
        };
        if let Some(name) = header.iter().find(|name| name.trim().is_empty() || name.parse::<f64>().is_ok()) {
            return Err(format!(
                "{}: its first line has {name:?}, which is no name; a sample begins with the names of its columns, and has none for an index",
                path.display()
            ));
        }
        Ok(Self { format, bytes, header })
    }

    /// How many columns it has, if that is known before its records are read.
    pub(super) fn header_len(&self) -> Option<usize> {
        Some(self.header.len()).filter(|columns| *columns > 0)
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

    pub(super) fn tensors(&self, signature: &Signature) -> Result<Vec<Tensor>, String> {
        features::read_records(&self.bytes, self.format, signature).map_err(|problem| text(&problem))
    }
}

/// Everything that is wrong with the records, a line for each.
fn text(problem: &Problem) -> String {
    let errors = problem.field_errors();
    if errors.is_empty() {
        return format!("the sample does not fit the model: {problem}");
    }
    let line = |error: &FieldError| match error.row_index() {
        Some(row) => format!("\n  {:?}, record {row}: {}", error.field(), error.detail()),
        None => format!("\n  {:?}: {}", error.field(), error.detail()),
    };
    let lines: String = errors.iter().take(LINES_MAX).map(line).collect();
    format!("the sample does not fit the model:{lines}")
}
