//! Which of a client's headers a service gets, and which the balancer sets itself.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, HOST, ORIGIN},
};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use topology::name;

use super::context::RequestContext;

pub(super) const PASSPORT: HeaderName = HeaderName::from_static(authz::PASSPORT_HEADER);
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_UNAVAILABLE: u16 = 14;

/// Names by which a client might claim an identity, to a service that trusted them.
const IDENTITY_PREFIXES: [&str; 5] = ["rampart-", "x-user", "x-auth-", "x-internal-", "x-forwarded-"];
/// The rest of them, and hop-by-hop fields.
const NOT_FORWARDED: [&str; 9] = [
    "authorization",
    "connection",
    "expect",
    "forwarded",
    "keep-alive",
    "kubeflow-userid",
    "proxy-authorization",
    "proxy-connection",
    "x-real-ip",
];

/// Removes what a client may not tell a service, and sets passport and origin.
pub(super) fn to_upstream(request: &mut RequestHeader, context: &RequestContext) -> Result<()> {
    let takes_basic = context.route.is_some_and(|route| route.takes_basic);
    let basic = if takes_basic { basic_credentials(&request.headers) } else { None };
    while let Some(name) = request.headers.keys().find(|name| is_stripped(name)).cloned() {
        request.remove_header(&name);
    }
    if let Some(mut credentials) = basic {
        // A secret must not stay in HPACK's table, where it could be guessed by what compresses well.
        credentials.set_sensitive(true);
        request.insert_header(AUTHORIZATION, credentials)?;
    }
    if let Some(passport) = &context.passport {
        let mut passport = passport.clone();
        // Else HPACK would spell it out every time. It is too long to be guessed by what compresses well (RFC 7541, 7.1.3).
        passport.set_sensitive(false);
        request.insert_header(PASSPORT, passport)?;
    }
    if context.pool().is_some_and(|pool| pool.name == name::MLFLOW) {
        // It answers to its own names only, and not to the one that the client called the balancer by.
        request.insert_header(HOST, identity::dns_name(name::MLFLOW))?;
    }
    if context.cors_fields.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        // Decided here; MLflow would refuse what it does not know.
        request.remove_header(&ORIGIN);
    }
    for name in ["traceparent", "tracestate"] {
        request.remove_header(name);
    }
    for (name, value) in &context.origin().headers() {
        request.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// The `Authorization: Basic` of a client; a bearer token stays here. Two of them become the one list that they mean to HTTP, which
/// the gateway refuses.
fn basic_credentials(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_basic = |value: &&[u8]| {
        let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Basic")
    };
    let values: Vec<&[u8]> =
        headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes).filter(is_basic).collect();
    if values.is_empty() { None } else { HeaderValue::from_bytes(&values.join(&b", "[..])).ok() }
}

fn is_stripped(name: &HeaderName) -> bool {
    let name = name.as_str();
    NOT_FORWARDED.contains(&name) || IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The gRPC status of a head or of trailers.
pub(super) fn grpc_status(headers: &HeaderMap<HeaderValue>) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether the replica answers that it cannot serve now: it is draining, or has not loaded the model yet.
pub(super) fn says_unavailable(response: &ResponseHeader) -> bool {
    response.status == http::StatusCode::SERVICE_UNAVAILABLE || grpc_status(&response.headers) == Some(GRPC_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_stripped_in_every_spelling_and_the_rest_is_not() {
        for name in [
            "Rampart-Passport",
            "RAMPART-CLIENT-ADDRESS",
            "rampart-anything",
            "X-User",
            "x-user-id",
            "X-Auth-Token",
            "x-internal-secret",
            "X-Forwarded-For",
            "x-forwarded-user",
            "Forwarded",
            "X-Real-IP",
            "Kubeflow-UserID",
            "Authorization",
            "Proxy-Authorization",
            "Expect",
        ] {
            assert!(is_stripped(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
        }
        for name in ["content-type", "inference-header-content-length", "x-request-id", "te", "grpc-timeout", "accept"]
        {
            assert!(!is_stripped(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
        }
    }
}
