//! `/api/admin/users`.

mod body;

use std::sync::Arc;

use authz::Principal;
use axum::{
    Extension, Json,
    extract::{FromRequestParts, RawPathParams, RawQuery, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header, request::Parts};
use problem::{Kind, Problem};
use uuid::Uuid;

pub use body::{ChangeUserRequest, CreateUserRequest, ShownUser, UserWithSecret, UsersPage};

use super::{
    if_match::{IfMatch, etag},
    paging::{PageParams, wrong_cursor},
    payload::{Payload, fields},
};
use crate::{
    app::{App, SignedInUser},
    audit::{self, AuditEvent, EventOutcome, RequestSource},
    error::StoreError,
    user::UserName,
};

/// The `{id}` of a path.
#[derive(Clone, Copy, Debug)]
pub struct UserId(Uuid);

/// List users by name.
#[utoipa::path(
    get, path = "/api/admin/users", tag = "users", params(PageParams),
    responses(
        (status = 200, description = "A page of users", body = UsersPage),
        (status = 400, description = "A parameter is wrong", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid bearer token", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Not an administrator", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    RawQuery(query): RawQuery,
) -> Result<Json<UsersPage>, problem::Api> {
    let user = SignedInUser::try_from(&principal)?;
    let params: PageParams = fields(query.unwrap_or_default().as_bytes())?;
    let limit = params.limit()?;
    let after = params.cursor.as_deref().map(cursor_name).transpose()?.unwrap_or_default();
    // One more than requested shows whether there is a next page.
    let mut users = app.store.users_page(&after, i64::from(limit) + 1).await.map_err(Problem::from)?;
    let has_more = users.len() > usize::from(limit);
    users.truncate(usize::from(limit));
    let last = users.last().filter(|_| has_more);
    let next_cursor = last.map(|last| URL_SAFE_NO_PAD.encode(last.name.as_str()));
    app.record_read(audit::EventKind::ReadUsers, &user, source).await?;
    Ok(Json(UsersPage { users: users.into_iter().map(ShownUser::from).collect(), next_cursor }))
}

/// One user.
#[utoipa::path(
    get, path = "/api/admin/users/{id}", tag = "users", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The user", body = ShownUser, headers(("ETag" = String, description = "Another one after each change"))),
        (status = 404, description = "There is no such user", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    UserId(id): UserId,
) -> Result<Response, problem::Api> {
    let user = SignedInUser::try_from(&principal)?;
    let found = app.store.user(id).await.map_err(Problem::from)?;
    app.record_read(audit::EventKind::ReadUsers, &user, source).await?;
    let found = found.ok_or(StoreError::UserNotFound).map_err(Problem::from)?;
    Ok(([etag(&found)?], Json(ShownUser::from(found))).into_response())
}

/// Make a user. A machine's client secret is in the answer, and never shown again.
#[utoipa::path(
    post, path = "/api/admin/users", tag = "users", request_body = CreateUserRequest,
    responses(
        (status = 201, description = "The user", body = UserWithSecret, headers(("ETag" = String, description = "Another one after each change"))),
        (status = 400, description = "A field is wrong", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The name is taken", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    payload: Payload,
) -> Result<Response, problem::Api> {
    let kind = audit::EventKind::CreateUser;
    let user = SignedInUser::try_from(&principal)?;
    app.require_fresh()?;
    let request: CreateUserRequest = payload.json()?;
    let (new, client_secret) = request.into_new_user(&app).await?;
    let event = AuditEvent::new(kind, EventOutcome::Success, user.actor(), source.clone())
        .with("name", new.name.as_str())
        .with("kind", <&str>::from(new.kind))
        .with("roles", serde_json::json!(new.roles));
    let made = app.store.create_user(user.caller, &new, event).await;
    let made = app.finish_change(kind, &user, None, source, made).await?;
    let location = HeaderValue::try_from(format!("/api/admin/users/{}", made.id)).map_err(Problem::internal)?;
    let headers = [(header::LOCATION, location), no_store(), etag(&made)?];
    let shown = UserWithSecret { user: made.into(), client_secret };
    Ok((StatusCode::CREATED, headers, Json(shown)).into_response())
}

/// Alter a user: what is absent stays as it is. Whatever makes its tokens untrue ends them within two seconds.
#[utoipa::path(
    patch, path = "/api/admin/users/{id}", tag = "users", params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that the user must still have; without it any will do")), request_body = ChangeUserRequest,
    responses(
        (status = 200, description = "The user as it is now", body = UserWithSecret, headers(("ETag" = String, description = "Another one after each change"))),
        (status = 400, description = "A field is wrong", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such user", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "This is the last administrator", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The user no longer has the ETag of If-Match", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn change(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    UserId(id): UserId,
    IfMatch(expected): IfMatch,
    payload: Payload,
) -> Result<Response, problem::Api> {
    let kind = audit::EventKind::ChangeUser;
    let user = SignedInUser::try_from(&principal)?;
    app.require_fresh()?;
    let request: ChangeUserRequest = payload.json()?;
    let present = app.store.user(id).await.map_err(Problem::from)?;
    let Some(present) = present else {
        return Ok(app.finish_change(kind, &user, Some(id), source, Err(StoreError::UserNotFound)).await?);
    };
    let (change, client_secret) = request.into_change(&app, &present).await?;
    let event = AuditEvent::new(kind, EventOutcome::Success, user.actor(), source.clone());
    let changed = app.store.change_user(user.caller, id, &expected, &change, event).await;
    let changed = app.finish_change(kind, &user, Some(id), source, changed).await?;
    let headers = [no_store(), etag(&changed)?];
    Ok((headers, Json(UserWithSecret { user: changed.into(), client_secret })).into_response())
}

/// Remove a user, its logins and its tokens.
#[utoipa::path(
    delete, path = "/api/admin/users/{id}", tag = "users", params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that the user must still have; without it any will do")),
    responses(
        (status = 204, description = "The user is gone"),
        (status = 404, description = "There is no such user", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "This is the last administrator", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The user no longer has the ETag of If-Match", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    UserId(id): UserId,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, problem::Api> {
    let kind = audit::EventKind::DeleteUser;
    let user = SignedInUser::try_from(&principal)?;
    app.require_fresh()?;
    let event = AuditEvent::new(kind, EventOutcome::Success, user.actor(), source.clone());
    let deleted = app.store.delete_user(user.caller, id, &expected, event).await;
    app.finish_change(kind, &user, Some(id), source, deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End every login and token of a user, who may sign in again.
#[utoipa::path(
    post, path = "/api/admin/users/{id}/revoke", tag = "users", params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that the user must still have; without it any will do")),
    responses(
        (status = 204, description = "All are dead"),
        (status = 404, description = "There is no such user", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The user no longer has the ETag of If-Match", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn revoke(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    UserId(id): UserId,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, problem::Api> {
    let kind = audit::EventKind::RevokeUser;
    let user = SignedInUser::try_from(&principal)?;
    app.require_fresh()?;
    let event = AuditEvent::new(kind, EventOutcome::Success, user.actor(), source.clone());
    let revoked = app.store.revoke_user(user.caller, id, &expected, event).await;
    app.finish_change(kind, &user, Some(id), source, revoked).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn cursor_name(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| name.parse::<UserName>().is_ok());
    name.ok_or_else(wrong_cursor)
}

/// A response with a secret in it must not be cached.
fn no_store() -> (header::HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

// === impl UserId ===

impl<S: Send + Sync> FromRequestParts<S> for UserId {
    type Rejection = problem::Api;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, problem::Api> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let id = params.as_ref().and_then(|params| params.iter().find(|(name, _)| *name == "id"));
        let id = id.and_then(|(_, id)| id.parse().ok());
        id.map(Self).ok_or_else(|| Problem::new(Kind::InvalidArgument, "wants a UUID").field("id").into())
    }
}
