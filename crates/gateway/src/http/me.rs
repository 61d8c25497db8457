//! `GET /api/auth/me`: as whom a caller is signed in, and until when.

use std::sync::Arc;

use authz::{Principal, UnixTime};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use policy::Roles;
use problem::{Kind, Problem};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::{App, SignedInUser};

/// The owner of a token.
#[derive(Serialize, ToSchema)]
pub struct OwnAccount {
    id: Uuid,
    name: String,
    /// `person` or `machine`.
    kind: &'static str,
    tenant: String,
    /// Those of this moment; none, too, is possible.
    #[schema(value_type = Vec<String>)]
    roles: Roles,
    /// The client that the token was issued to.
    client_id: String,
    /// From when on the token is of no use. Missing for a moment while gateways are updated.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    token_expires_at: Option<OffsetDateTime>,
}

/// Who I am, by the token of this request.
///
/// Answered from memory, so it works while the database is lost.
#[utoipa::path(
    get, path = "/api/auth/me", tag = "auth",
    responses(
        (status = 200, description = "The token's owner as it is now", body = OwnAccount),
        (status = 401, description = "No valid bearer token", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn me(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, problem::Api> {
    let unknown = || Problem::new(Kind::Unauthenticated, "this needs a valid bearer token");
    let id = SignedInUser::try_from(&principal)?.caller.id;
    let passport = principal.passport().ok_or_else(Problem::missing_token)?;
    let user = app.auth_state.read(|index| index.user(id)).ok_or_else(unknown)?;
    let account = OwnAccount {
        id,
        name: user.name.as_ref().to_owned(),
        kind: user.kind.into(),
        tenant: user.tenant.as_str().to_owned(),
        roles: user.roles,
        client_id: passport.client_id.clone(),
        token_expires_at: passport.token_exp.and_then(time_of),
    };
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(account)).into_response())
}

fn time_of(seconds: UnixTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}
