//! A run of the worker: what was asked, and what came of it.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{manifest::Link, set::SetName};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Make a set.
    Create,
    /// Prove a set.
    Verify,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Going on.
    Running,
    /// Came to its end; a verification also when its verdict is INVALID.
    Succeeded,
    /// Did not come to its end: nothing was made, nothing was proved.
    Failed,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Signed, in its chain, whole, decrypted, restored and compared.
    Valid,
    /// Anything else, and why.
    Invalid(Vec<String>),
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: Uuid,
    /// What was asked.
    pub kind: Kind,
    /// The set; of a run that makes one, once it is made.
    pub set: Option<SetName>,
    /// How far it is.
    pub state: State,
    /// What a verification found.
    pub verdict: Option<Verdict>,
    /// Why it failed.
    pub error: Option<String>,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub started_at: OffsetDateTime,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
    /// Bytes of a set that was made.
    pub size_bytes: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A set was made.
    Made(Made),
    /// A set was looked at to the end.
    Verified(Verdict),
    /// It broke off.
    Failed(String),
}

/// A set that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name and the sum of its manifest.
    pub link: Link,
    /// Bytes of its objects.
    pub size_bytes: u64,
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Create, Self::Verify];

    /// The word for it in the API, the store and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Verify => "verify",
        }
    }
}

// === impl State ===

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Running, Self::Succeeded, Self::Failed];

    /// The word for it in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Invalid(_) => "INVALID",
        }
    }
}
