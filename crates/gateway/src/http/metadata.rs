//! `GET /.well-known/oauth-authorization-server`: where a client finds what it needs to sign in (RFC 8414).

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Uri, header, uri::Authority};
use problem::{Kind, Problem};
use serde::Serialize;
use utoipa::ToSchema;

/// Where it is.
pub const PATH: &str = "/.well-known/oauth-authorization-server";

/// How long a client may cache it: what changes with a release only.
/// It repeats the host that was called, so that a cache must not give it to others.
const METADATA_CACHE: &str = "no-store";

/// RFC 8414 §2. The endpoint that ends tokens is not in it: it wants the bearer token of their owner, and RFC 7009 the credentials
/// of a client.
#[derive(Serialize, ToSchema)]
pub struct AuthMetadata {
    /// The front door, as the client has called it.
    issuer: String,
    token_endpoint: String,
    jwks_uri: String,
    /// `none`: there is no authorization endpoint, and the member must be there and not be empty.
    response_types_supported: Vec<&'static str>,
    grant_types_supported: Vec<&'static str>,
    /// `none` is for people, who need no client.
    token_endpoint_auth_methods_supported: Vec<&'static str>,
}

/// Where to sign in, and how.
#[utoipa::path(
    get, path = "/.well-known/oauth-authorization-server", tag = "documents", security(()),
    responses(
        (status = 200, description = "RFC 8414", body = AuthMetadata),
        (status = 400, description = "The request does not say by which name it calls", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn metadata(uri: Uri, headers: HeaderMap) -> Result<Response, problem::Api> {
    let wrong = || Problem::new(Kind::InvalidArgument, "wants the name of the front door").field("host");
    // Only the caller reads its own name again, so it may be any.
    let issuer = format!("https://{}", called(&uri, &headers).ok_or_else(wrong)?);
    let metadata = AuthMetadata {
        token_endpoint: format!("{issuer}/api/auth/token"),
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        issuer,
        response_types_supported: vec!["none"],
        grant_types_supported: vec!["client_credentials", "password", "refresh_token"],
        token_endpoint_auth_methods_supported: vec!["client_secret_basic", "client_secret_post", "none"],
    };
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static(METADATA_CACHE))], Json(metadata)).into_response())
}

/// Host and port that the client has called: HTTP/2 has them in the target, HTTP/1.1 in a header.
fn called(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let host = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    let authority: Authority = uri.authority().cloned().or_else(host)?;
    // A name and a password before the host are no part of an issuer.
    (!authority.as_str().contains('@')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called_by(target: &str, host: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        host.into_iter().for_each(|host| drop(headers.insert(header::HOST, host.parse().unwrap())));
        called(&target.parse().unwrap(), &headers).map(|authority| authority.to_string())
    }

    #[test]
    fn the_issuer_is_what_the_client_has_called() {
        assert_eq!(called_by("https://front:8095/x", None).as_deref(), Some("front:8095"));
        assert_eq!(called_by("/x", Some("localhost:8095")).as_deref(), Some("localhost:8095"));
        assert_eq!(called_by("/x", Some("[::1]:8095")).as_deref(), Some("[::1]:8095"));
        for (target, host) in [("/x", None), ("/x", Some("a b")), ("/x", Some("a/b")), ("/x", Some("me@front"))] {
            assert_eq!(called_by(target, host), None, "{host:?}");
        }
        assert_eq!(called_by("https://me@front/x", None), None);
    }
}
