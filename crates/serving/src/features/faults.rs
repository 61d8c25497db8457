//! Everything that is wrong with a request, collected to be said at once, up to a bound.

use problem::{FieldError, Kind, Problem};

use crate::protocol::json::Fault;

/// More of them are not listed: a body of nothing but faults is not read to its end.
const FAULTS_MAX: usize = 100;
/// Of a name that a client has made up, this much is shown.
const NAME_CHARS_MAX: usize = 128;

/// Nothing more is to be read: what is wrong is known well enough.
#[derive(Debug)]
pub(super) struct Stop;

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Faults {
    errors: Vec<FieldError>,
    /// Wrong only if missing values are not allowed, which a body may say at its end.
    missing: Vec<FieldError>,
    /// Ends the reading, whatever else is wrong.
    fatal: Option<Problem>,
    is_cut: bool,
    is_hopeless: bool,
}

// === impl Faults ===

impl Faults {
    /// A wrong field, or a wrong value in a row.
    pub(super) fn add(&mut self, field: &str, row: Option<usize>, detail: impl Into<String>) -> Result<(), Stop> {
        self.errors.push(error(field, row, detail.into()));
        self.is_cut = self.errors.len() >= FAULTS_MAX;
        if self.is_cut { Err(Stop) } else { Ok(()) }
    }

    /// The same, of which the first of all rows tells enough.
    pub(super) fn add_once(&mut self, field: &str, row: Option<usize>, detail: &str) -> Result<(), Stop> {
        let shown = shorten(field);
        let is_known = |error: &FieldError| error.field() == shown && error.detail() == detail;
        if self.errors.iter().any(is_known) { Ok(()) } else { self.add(field, row, detail) }
    }

    /// A missing value that may be allowed.
    pub(super) fn add_missing(&mut self, field: &str, row: usize) {
        if self.missing.len() < FAULTS_MAX {
            let detail = "is missing; with \"missing\": \"nan\" it would be NaN";
            self.missing.push(error(field, Some(row), detail.to_owned()));
        }
    }

    /// Ends the reading with this.
    pub(super) fn stop(&mut self, problem: Problem) -> Stop {
        self.fatal.get_or_insert(problem);
        Stop
    }

    /// Ends the reading: what comes means nothing with what is wrong already.
    pub(super) fn give_up(&mut self) -> Stop {
        self.is_hopeless = true;
        Stop
    }

    /// Whether anything is wrong whatever else the request says.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.fatal.is_none()
    }

    /// Whether the reading was ended.
    pub(super) fn has_stopped(&self) -> bool {
        self.is_cut || self.is_hopeless || self.fatal.is_some()
    }

    /// What a caller is told, if anything is wrong.
    pub(super) fn into_problem(mut self, may_miss: bool) -> Option<Problem> {
        if self.fatal.is_some() {
            return self.fatal;
        }
        if !may_miss {
            self.errors.append(&mut self.missing);
            self.is_cut |= self.errors.len() >= FAULTS_MAX;
            self.errors.truncate(FAULTS_MAX);
        }
        let first = self.errors.first()?;
        let place = first.row_index().map_or_else(String::new, |row| format!("row {row}: "));
        let more = match (self.errors.len() - 1, self.is_cut) {
            (0, _) => String::new(),
            (more, false) => format!("; and {more} more in `errors`"),
            (more, true) => format!("; and more, {more} of them in `errors`"),
        };
        let problem = Problem::new(Kind::InvalidArgument, format!("{place}{}{more}", first.detail()));
        Some(problem.field(first.field().to_owned()).errors(self.errors))
    }
}

fn error(field: &str, row: Option<usize>, detail: String) -> FieldError {
    let error = FieldError::new(shorten(field), detail);
    match row {
        Some(row) => error.row(row as u64),
        None => error,
    }
}

fn shorten(name: &str) -> &str {
    name.char_indices().nth(NAME_CHARS_MAX).map_or(name, |(end, _)| name.get(..end).unwrap_or(name))
}

/// Carries a stop out of the JSON reader; what it says is never shown.
impl From<Stop> for Fault {
    fn from(Stop: Stop) -> Self {
        Self::value("stopped")
    }
}
