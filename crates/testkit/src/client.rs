//! A caller over mTLS and HTTP/2.

use std::{net::SocketAddr, sync::Arc};

use authz::PASSPORT_HEADER;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use identity::Identity;
use serde_json::Value;
use tonic::{Status, body::Body};
use tower::Service as _;
use transport::Channel;

const SENT: &str = "a test's request is well-formed";

/// Calls as one peer, with one passport or none.
#[derive(Clone)]
pub struct PeerClient {
    channel: Channel,
    passport: Option<String>,
}

/// A whole response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The header.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

// === impl PeerClient ===

impl PeerClient {
    /// A caller with this certificate.
    pub fn new(identity: &Arc<Identity>, service: &str, address: SocketAddr, passport: Option<String>) -> Self {
        Self { channel: transport::channel(identity, service, &[address.to_string()]), passport }
    }

    /// The connection, for a gRPC client of the test's own.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Calls a route that must answer.
    pub async fn call(&self, method: Method, path: &str) -> HttpResponse {
        self.try_call(method, path).await.expect("the service answers")
    }

    /// Calls a route that may not answer, because the connection is refused or breaks.
    pub async fn try_call(&self, method: Method, path: &str) -> Result<HttpResponse, Status> {
        let mut request = Request::new(Body::new(Full::new(Bytes::new())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect(SENT);
        if let Some(passport) = &self.passport {
            request.headers_mut().insert(PASSPORT_HEADER, passport.parse().expect(SENT));
        }
        let (parts, body) = self.channel.clone().call(request).await?.into_parts();
        Ok(HttpResponse {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

// === impl HttpResponse ===

impl HttpResponse {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}
