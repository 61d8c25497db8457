//! One of many things that are wrong with a request.

/// A field that is wrong, in a request of many rows also in which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    field: String,
    row: Option<u64>,
    detail: String,
}

// === impl FieldError ===

impl FieldError {
    /// What is wrong with a field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), row: None, detail: detail.into() }
    }

    /// In which row, from 0.
    #[must_use]
    pub fn row(mut self, row: u64) -> Self {
        self.row = Some(row);
        self
    }

    /// The field.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The row, from 0, where there are rows.
    pub fn row_index(&self) -> Option<u64> {
        self.row
    }

    /// What is wrong with it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self.row {
            Some(row) => serde_json::json!({ "field": self.field, "row": row, "detail": self.detail }),
            None => serde_json::json!({ "field": self.field, "detail": self.detail }),
        }
    }
}
