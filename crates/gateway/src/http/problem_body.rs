//! The body of every error, as the API describes it.

use serde::Serialize;
use utoipa::ToSchema;

/// RFC 9457; `error` and `error_description` (RFC 6749) from the token endpoint only.
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemBody {
    /// `urn:rampart:problem:` and the kind.
    r#type: String,
    /// The kind in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
    /// The field of the request that is wrong.
    field: Option<String>,
    /// The byte of the body at which it stopped making sense.
    offset: Option<u64>,
    /// RFC 6749 §5.2.
    error: Option<String>,
    /// `detail` again.
    error_description: Option<String>,
}
