//! A caller over mTLS and HTTP/2, for REST and gRPC alike.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use identity::Identity;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde_json::Value;
use tonic::{Status, body::Body, metadata::MetadataValue, service::interceptor::InterceptedService};
use tower::Service;
use transport::Channel;

/// Calls as one peer with one passport.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    passport: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Puts the passport on every gRPC call.
#[derive(Clone)]
pub(crate) struct Passport(Option<String>);

pub(crate) type Grpc = GrpcInferenceServiceClient<InterceptedService<Channel, Passport>>;

// === impl Client ===

impl Client {
    pub(crate) fn new(identity: &Arc<Identity>, address: SocketAddr, passport: Option<String>) -> Self {
        Self { channel: transport::channel(identity, "serving", &[address.to_string()]), passport }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.call(Method::POST, path, &[], body.into()).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, body.to_string()).await
    }

    /// Asks a model for a prediction in JSON.
    pub(crate) async fn infer(&self, model: &str, body: &Value) -> Answer {
        self.post_json(&format!("/v2/models/{model}/infer"), body).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Status> {
        let mut request = Request::new(Body::new(Full::new(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        if let Some(passport) = &self.passport {
            request.headers_mut().insert("rampart-passport", passport.parse().unwrap());
        }
        let (parts, body) = self.channel.clone().call(request).await?.into_parts();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    /// Begins a POST whose body announces so many bytes and sends none. Dropping it ends the call.
    pub(crate) fn upload(&self, path: &str, bytes: u64) -> AbortOnDrop {
        let (client, path) = (self.clone(), path.to_owned());
        AbortOnDrop(tokio::spawn(async move {
            let mut request = Request::new(Body::new(NeverSent(bytes)));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = path.parse().unwrap();
            request.headers_mut().insert("content-length", HeaderValue::from(bytes));
            if let Some(passport) = &client.passport {
                request.headers_mut().insert("rampart-passport", passport.parse().unwrap());
            }
            let _unfinished = client.channel.clone().call(request).await;
        }))
    }

    /// A gRPC client over the same connection.
    pub(crate) fn grpc(&self) -> Grpc {
        GrpcInferenceServiceClient::with_interceptor(self.channel.clone(), Passport(self.passport.clone()))
    }
}

impl tonic::service::Interceptor for Passport {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(passport) = &self.0 {
            request.metadata_mut().insert("rampart-passport", MetadataValue::try_from(passport).unwrap());
        }
        Ok(request)
    }
}

/// A call that is given up when this is dropped.
pub(crate) struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body that announces so many bytes, which never come.
struct NeverSent(u64);

impl http_body::Body for NeverSent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error in the protocol's form; anything else fails the test.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/json");
        let body = self.json();
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }
}
