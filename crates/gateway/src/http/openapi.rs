//! What anybody may read: the public keys and the description of this API.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use crate::app::App;

/// How long anybody may remember the keys.
const JWKS_CACHE: &str = "public, max-age=60";

/// RFC 9457; `error` and `error_description` (RFC 6749) from the token endpoint only.
#[derive(Serialize, ToSchema)]
pub struct ProblemBody {
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

/// Everything under `/api` that the gateway answers.
#[derive(OpenApi)]
#[openapi(
    info(title = "Rampart gateway", description = "Tokens, users and the audit log.", license(name = "Apache-2.0")),
    paths(
        super::token::token,
        super::revoke::revoke,
        super::users::list,
        super::users::create,
        super::users::get,
        super::users::change,
        super::users::delete,
        super::users::revoke,
        super::audit::list,
        jwks,
        openapi,
    ),
    components(schemas(ProblemBody)),
    security(("bearer" = [])),
    modifiers(&BearerTokens),
    tags((name = "auth"), (name = "users"), (name = "audit"), (name = "documents"))
)]
pub struct Description;

struct BearerTokens;

// === impl BearerTokens ===

impl Modify for BearerTokens {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".to_owned());
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// The document as it is published and committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    Description::openapi().to_pretty_json().map(|json| json + "\n")
}

/// The keys that access tokens are signed with (RFC 7517).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "documents", security(()),
    responses((status = 200, description = "A JWK set; each kid is the key's RFC 7638 thumbprint", body = serde_json::Value))
)]
pub async fn jwks(State(app): State<Arc<App>>) -> Response {
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json")),
        (header::CACHE_CONTROL, HeaderValue::from_static(JWKS_CACHE)),
    ];
    (head, app.tokens.access_jwks().to_owned()).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "documents", security(()),
    responses((status = 200, description = "OpenAPI", body = serde_json::Value))
)]
pub async fn openapi() -> Result<Response, problem::Api> {
    let json = openapi_json().map_err(problem::Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}
