#![doc = include_str!("../README.md")]

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use reqwest::{Certificate, Client, ClientBuilder, redirect, tls};
use rustls::ClientConfig;

/// A client. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct HttpsClient(Client);

/// How long a client waits, whatever it calls.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the first byte of an answer, and between two pieces of it.
    pub silence: Duration,
}

/// Whether variables of the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) name a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// They are ignored: a variable must not decide who sees which servers are called, and when.
    Never,
    /// The user has asked for them. A proxy passes TLS on, and sees names and times alone.
    OfEnvironment,
}

/// What one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the connection to the last byte of the answer.
    pub timeout: Duration,
    /// The longest body.
    pub body_bytes_max: u64,
}

/// The body of an answer, read piece by piece: it ends with an error where it gets too long.
#[derive(Debug)]
pub struct AnswerBody {
    response: reqwest::Response,
    bytes_max: u64,
    bytes_left: u64,
}

/// Why there is no answer, or no whole one. No message has an address in it: some are signed.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The CA file's content.
    #[error("these are no PEM certificates")]
    NoCertificates(#[source] Option<reqwest::Error>),
    /// A client or a request that cannot be made.
    #[error("it cannot be called")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection, no TLS, no time left.
    #[error("it does not answer")]
    NoAnswer(#[source] reqwest::Error),
    /// The answer began and did not end.
    #[error("it broke off its answer")]
    BrokenOff(#[source] reqwest::Error),
    /// The answer is longer than it may be.
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
}

// === impl HttpsClient ===

impl HttpsClient {
    /// Trusts and presents what `tls` says, which must be for TLS 1.3 only: the identity's configurations are.
    pub fn with_tls(tls: ClientConfig, timeouts: Timeouts) -> Result<Self, HttpsError> {
        Self::build(Client::builder().tls_backend_preconfigured(tls), timeouts, Proxies::Never)
    }

    /// Trusts exactly the authorities in `pem`, and presents no certificate.
    pub fn trusting(pem: &[u8], timeouts: Timeouts, proxies: Proxies) -> Result<Self, HttpsError> {
        let roots = Certificate::from_pem_bundle(pem).map_err(|error| HttpsError::NoCertificates(Some(error)))?;
        if roots.is_empty() {
            return Err(HttpsError::NoCertificates(None));
        }
        let builder = Client::builder().tls_certs_only(roots).tls_version_min(tls::Version::TLS_1_3);
        Self::build(builder, timeouts, proxies)
    }

    fn build(builder: ClientBuilder, timeouts: Timeouts, proxies: Proxies) -> Result<Self, HttpsError> {
        let builder = if proxies == Proxies::Never { builder.no_proxy() } else { builder };
        let client = builder
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.silence)
            .build();
        client.map(Self).map_err(|error| HttpsError::Unusable(error.into()))
    }

    /// Sends a request and returns the head of the answer, whatever its status, with the body still to be read.
    pub async fn send(&self, request: Request<Vec<u8>>, bounds: Bounds) -> Result<Response<AnswerBody>, HttpsError> {
        let bytes_max = bounds.body_bytes_max;
        let mut request = reqwest::Request::try_from(request).map_err(|error| HttpsError::Unusable(error.into()))?;
        *request.timeout_mut() = Some(bounds.timeout);
        let sent = self.0.execute(request).await;
        let mut response = sent.map_err(|error| HttpsError::NoAnswer(error.without_url()))?;
        if response.content_length().is_some_and(|length| length > bytes_max) {
            return Err(HttpsError::TooLong(bytes_max));
        }
        let mut head = Response::new(());
        *head.status_mut() = response.status();
        *head.headers_mut() = std::mem::take(response.headers_mut());
        Ok(head.map(|()| AnswerBody { response, bytes_max, bytes_left: bytes_max }))
    }
}

// === impl HttpsError ===

impl From<http::Error> for HttpsError {
    fn from(error: http::Error) -> Self {
        Self::Unusable(error.into())
    }
}

// === impl AnswerBody ===

impl AnswerBody {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpsError> {
        let piece = self.response.chunk().await.map_err(|error| HttpsError::BrokenOff(error.without_url()))?;
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or(HttpsError::TooLong(self.bytes_max))?;
        Ok(piece)
    }

    /// All of it.
    pub async fn collect(mut self) -> Result<Vec<u8>, HttpsError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}
