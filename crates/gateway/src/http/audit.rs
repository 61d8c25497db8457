//! `GET /api/admin/audit`.

use std::sync::Arc;

use authz::Principal;
use axum::{
    Extension, Json,
    extract::{RawQuery, State},
};
use problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    paging::{PageParams, wrong_cursor},
    payload::fields,
};
use crate::{
    app::{App, SignedInUser},
    audit::{self, RequestSource},
    store::PagedRecord,
};

/// A record of the audit log, with its links.
#[derive(Serialize, ToSchema)]
pub struct ShownRecord {
    /// Whose chain it is part of.
    writer: String,
    /// Its place in it, from 1.
    seq: i64,
    /// The canonical JSON text that is hashed, byte for byte.
    record: String,
    /// Hexadecimal.
    previous_hash: String,
    /// SHA-256(0x00 ‖ previous_hash ‖ SHA-256(record)), hexadecimal.
    hash: String,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    records: Vec<ShownRecord>,
    /// The `cursor` of the next (older) page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Read the audit log, newest first.
#[utoipa::path(
    get, path = "/api/admin/audit", tag = "audit", params(PageParams),
    responses(
        (status = 200, description = "A page of records", body = AuditPage),
        (status = 400, description = "A parameter is wrong", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid bearer token", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Neither an auditor nor an administrator", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    RawQuery(query): RawQuery,
) -> Result<Json<AuditPage>, problem::Api> {
    let user = SignedInUser::try_from(&principal)?;
    let params: PageParams = fields(query.unwrap_or_default().as_bytes())?;
    let limit = params.limit()?;
    let before =
        params.cursor.as_deref().map_or(Ok(i64::MAX), |cursor| cursor.parse::<i64>().map_err(|_| wrong_cursor()))?;
    // One more than requested shows whether there is a next page.
    let mut records = app.store.audit_page(before, i64::from(limit) + 1).await.map_err(Problem::from)?;
    let has_more = records.len() > usize::from(limit);
    records.truncate(usize::from(limit));
    app.record_read(audit::EventKind::ReadAudit, &user, source).await?;
    let next_cursor = records.last().filter(|_| has_more).map(|last| last.id.to_string());
    Ok(Json(AuditPage { records: records.into_iter().map(ShownRecord::from).collect(), next_cursor }))
}

// === impl ShownRecord ===

impl From<PagedRecord> for ShownRecord {
    fn from(paged: PagedRecord) -> Self {
        Self {
            writer: paged.stored.writer,
            seq: paged.stored.seq,
            record: paged.stored.record,
            previous_hash: hex::encode(paged.stored.previous_hash),
            hash: hex::encode(paged.stored.hash),
        }
    }
}
