//! `GET /api/openapi.json`: the description of this API, generated from the code.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::problem_body::ProblemBody;

/// Everything under `/api` that the gateway answers.
#[derive(OpenApi)]
#[openapi(
    info(title = "Rampart gateway", description = "Tokens, users and the audit log.", license(name = "Apache-2.0")),
    paths(
        super::token::token,
        super::revoke::revoke,
        super::me::me,
        super::users::list,
        super::users::create,
        super::users::get,
        super::users::change,
        super::users::delete,
        super::users::revoke,
        super::audit::list,
        super::jwks::jwks,
        super::metadata::metadata,
        openapi,
    ),
    components(schemas(ProblemBody)),
    security(("bearer" = [])),
    modifiers(&SecuritySchemes),
    tags((name = "auth"), (name = "users"), (name = "audit"), (name = "documents"))
)]
pub struct Description;

struct SecuritySchemes;

// === impl SecuritySchemes ===

impl Modify for SecuritySchemes {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".to_owned());
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let client = Http::new(HttpAuthScheme::Basic);
        components.add_security_scheme("client", SecurityScheme::Http(client));
    }
}

/// The document as it is published and committed: JSON, indented, one line feed at the end.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    Description::openapi().to_pretty_json().map(|json| json + "\n")
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
