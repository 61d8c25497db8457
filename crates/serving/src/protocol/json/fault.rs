//! Why a JSON text was refused: what is wrong, under which field, and at which byte.

use std::{borrow::Cow, fmt};

use problem::{Kind, Problem};

/// Why a text was refused, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(super) message: Cow<'static, str>,
    /// Set when the text is not JSON; a well-formed value that is merely wrong is named by its path.
    pub(super) offset: Option<usize>,
    /// Innermost first: faults collect it on their way out.
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Key(Cow<'static, str>),
    Index(usize),
}

// === impl Fault ===

impl Fault {
    /// The text is not JSON at this byte.
    pub(crate) fn syntax(offset: usize, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), offset: Some(offset), path: Vec::new() }
    }

    /// The value is JSON, but not what the field must be.
    pub(crate) fn value(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), offset: None, path: Vec::new() }
    }

    /// Says that the body itself is meant, and no field of it.
    #[must_use]
    pub(crate) fn of_body(self) -> Self {
        self.key("the body")
    }

    /// Says under which field the fault lies.
    #[must_use]
    pub(crate) fn key(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.path.push(Step::Key(key.into()));
        self
    }

    /// Says at which element the fault lies.
    #[must_use]
    pub(crate) fn index(mut self, index: usize) -> Self {
        self.path.push(Step::Index(index));
        self
    }

    fn field(&self) -> String {
        let mut field = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Key(key) if field.is_empty() => field.push_str(key),
                Step::Key(key) => {
                    field.push('.');
                    field.push_str(key);
                }
                Step::Index(index) => field.push_str(&format!("[{index}]")),
            }
        }
        field
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let field = fault.field();
        let mut problem = Self::new(Kind::InvalidArgument, fault.message);
        if !field.is_empty() {
            problem = problem.field(field);
        }
        match fault.offset {
            Some(offset) => problem.offset(offset as u64),
            None => problem,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field(), self.message)
    }
}
