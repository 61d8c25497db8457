//! `POST /api/auth/revoke` (RFC 7009): one's own tokens. A refresh token ends its whole login, which is how to log out.

use std::sync::Arc;

use authz::Principal;
use axum::{Extension, extract::State};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use super::payload::Payload;
use crate::{
    app::{App, SignedInUser},
    audit::{AuditEvent, EventKind, EventOutcome, RequestSource},
    auth_state::TokenVerdict,
    error::StoreError,
    random_secrets,
};

/// RFC 7009 §2.1.
#[derive(Deserialize, ToSchema)]
pub struct RevokeRequest {
    /// An access token or a refresh token.
    token: String,
    /// Not needed: the two kinds look different.
    #[expect(dead_code, reason = "a member of the RFC that clients may send")]
    token_type_hint: Option<String>,
}

/// End one's own access token, or with a refresh token the whole login.
///
/// Answers 200 also for a token that is unknown, over, revoked already, or another user's; those are left alone.
#[utoipa::path(
    post, path = "/api/auth/revoke", tag = "auth",
    request_body(content((RevokeRequest = "application/x-www-form-urlencoded"), (RevokeRequest = "application/json"))),
    responses(
        (status = 200, description = "The token is dead"),
        (status = 400, description = "Not a revocation request", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid bearer token", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not now; Retry-After says when", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn revoke(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    source: RequestSource,
    headers: HeaderMap,
    payload: Payload,
) -> Result<StatusCode, problem::Api> {
    let user = SignedInUser::try_from(&principal)?;
    let request: RevokeRequest = payload.form_or_json(&headers)?;
    let event = AuditEvent::new(EventKind::Revoke, EventOutcome::Success, user.actor(), source);
    let revoked = if request.token.starts_with(random_secrets::REFRESH_PREFIX) {
        revoke_own_session(&app, &user, &request.token, event).await
    } else {
        revoke_own_token(&app, &user, &request.token, event).await
    };
    if let Some(seq) = revoked.map_err(problem::Problem::from)? {
        app.auth_state.catch_up(seq).await;
    }
    Ok(StatusCode::OK)
}

async fn revoke_own_session(
    app: &App,
    user: &SignedInUser,
    token: &str,
    event: AuditEvent,
) -> Result<Option<i64>, StoreError> {
    let owner = app.store.owner_of_refresh_token(&random_secrets::sha256(token)).await?;
    let Some((session, _)) = owner.filter(|(_, owner)| *owner == user.caller.id) else { return Ok(None) };
    if app.auth_state.read(|index| index.is_revoked(session)) {
        return Ok(None);
    }
    let event = event.about_user(user.caller.id).with("session", session.to_string());
    Ok(Some(app.store.revoke_session(session, event).await?.seq))
}

async fn revoke_own_token(
    app: &App,
    user: &SignedInUser,
    token: &str,
    event: AuditEvent,
) -> Result<Option<i64>, StoreError> {
    let Ok(claims) = app.tokens.verify_access(token, app.unix_now()) else { return Ok(None) };
    let Ok(token_id) = claims.jti.parse() else { return Ok(None) };
    if claims.sub != user.caller.id.to_string() {
        return Ok(None);
    }
    if matches!(app.auth_state.read(|index| index.judge(&claims)), TokenVerdict::Invalid(_)) {
        return Ok(None);
    }
    let event = event.about_user(user.caller.id).with("token", claims.jti);
    Ok(Some(app.store.revoke_token(token_id, event).await?.seq))
}
