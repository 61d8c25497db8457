//! A run of the worker: its kind, state and outcome.

use strum::{EnumString, IntoStaticStr, VariantArray};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{manifest::Link, progress::Reached, set_name::SetName};

/// How often a run is begun that is cut off by the end of its worker each time.
pub const ATTEMPTS_MAX: u32 = 3;

/// The kind of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum RunKind {
    /// Build a set.
    Create,
    /// Verify a set.
    Verify,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum RunState {
    /// Under way.
    Running,
    /// Completed; a verification also when its verdict is INVALID.
    Succeeded,
    /// Not completed: there is no set, or no verdict.
    Failed,
    /// Ended by a caller before it was completed: there is no set, or no verdict.
    Cancelled,
}

/// The verdict of a verification.
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
    /// Its kind.
    pub kind: RunKind,
    /// The set; of a run that builds one, once it is complete.
    pub set: Option<SetName>,
    /// Its state.
    pub state: RunState,
    /// The verdict of a verification.
    pub verdict: Option<Verdict>,
    /// Why it failed.
    pub error: Option<String>,
    /// The caller that requested it.
    pub requested_by: String,
    /// When.
    pub started_at: OffsetDateTime,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
    /// Bytes of a set that was made.
    pub size_bytes: Option<u64>,
    /// 1, or more for a run that takes the place of one that was cut off.
    pub attempt: u32,
    /// How far it is, or how far it was when it ended; at most a second old while it runs.
    pub reached: Reached,
    /// The caller that cancelled it.
    pub cancelled_by: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// A set was built.
    Built(BuiltSet),
    /// A set was verified to the end.
    Verified(Verdict),
    /// It failed.
    Failed(String),
    /// A caller cancelled it.
    Cancelled {
        /// Which.
        by: String,
    },
    /// It was cut off by the end of its worker, and is begun again unless it was the last attempt.
    Interrupted,
}

/// A set that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltSet {
    /// Its name and the sum of its manifest.
    pub link: Link,
    /// Bytes of its objects.
    pub size_bytes: u64,
}

// === impl RunKind ===

impl RunKind {
    /// The name in the API, the store and the metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
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
