//! The source of a request, for the audit log.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::{Extensions, HeaderMap, request::Parts};
use identity::PeerName;

use crate::audit::RequestSource;

/// The client's address as the balancer saw it. The balancer drops it from clients' requests, and only peers connect here.
const ADDRESS_HEADER: &str = "rampart-client-address";

// === impl RequestSource ===

impl RequestSource {
    /// From the headers and the peer of a request.
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        Self {
            address: text(headers, ADDRESS_HEADER).map(str::to_owned),
            peer: extensions.get::<PeerName>().map(|peer| peer.instance.clone()),
            trace_id: text(headers, "traceparent").and_then(trace_id).map(str::to_owned),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestSource {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, &parts.extensions))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}
