//! `GET /internal/authorize`: `Authorize` in headers, for nginx's `auth_request`, once per request of a client. Only the
//! edge may call it, and no client can reach it.

use authz::PASSPORT_HEADER;
use axum::extract::State;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use problem::{Kind, Problem};

use crate::{
    audit::RequestSource,
    authorizer::{AuthorizeQuery, Authorizer},
};

const AUDIENCE: &str = "x-rampart-audience";
const METHOD: &str = "x-original-method";
const TARGET: &str = "x-original-uri";
/// There if another gateway can be asked: only one with the database's revocations is to answer.
const FRESH: &str = "x-rampart-fresh";

/// 204, with the passport if the audience is a service of this platform; 401, 403, or 503 when it cannot be decided. A gateway
/// that is cut off from its database may lack a revocation: it answers 503 while the edge can ask another.
pub async fn authorize(
    State(authorizer): State<Authorizer>,
    source: RequestSource,
    headers: HeaderMap,
) -> Result<Response<axum::body::Body>, problem::Api> {
    if headers.contains_key(FRESH) && authorizer.is_stale() {
        return Err(Problem::unavailable("another gateway may know of more revocations").into());
    }
    let target = only(&headers, TARGET)?;
    let path = target.split_once('?').map_or(target, |(path, _query)| path);
    let (audience, method) = (only(&headers, AUDIENCE)?, only(&headers, METHOD)?);
    let query = AuthorizeQuery { token: bearer_token(&headers)?, audience, method, path };
    let authorized = authorizer.authorize(query, source).await?;
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(passport) = authorized.passport {
        let mut passport = HeaderValue::try_from(passport).map_err(Problem::internal)?;
        passport.set_sensitive(true);
        response.headers_mut().insert(PASSPORT_HEADER, passport);
    }
    Ok(response)
}

/// A header that must be there once.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Problem> {
    let wrong = |detail| Problem::new(Kind::InvalidArgument, detail).field(name);
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| wrong("the header is missing"))?;
    if values.next().is_some() {
        return Err(wrong("the header is there twice"));
    }
    value.to_str().map_err(|_| wrong("the header is not text"))
}

/// Anything but one bearer token is a failed authentication.
fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let wrong = Problem::no_bearer_token;
    let value = only(headers, "authorization").map_err(|_| wrong())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(wrong()) }
}
