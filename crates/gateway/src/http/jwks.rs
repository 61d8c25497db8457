//! `GET /.well-known/jwks.json`: the public keys of access tokens.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};

use crate::app::App;

/// How long a client may cache the keys.
const JWKS_CACHE: &str = "public, max-age=60";

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
