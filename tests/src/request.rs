//! One request that is sent any number of times: the server, the protocol, and the expected response.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// A call that takes longer is a failed call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// One request at a time on a connection.
    Http1,
    /// Many.
    Http2,
}

/// A server and how to reach it.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name its certificate must have.
    pub name: ServerName<'static>,
    /// Trusted CA and client certificate; none for a server without TLS that the platform is compared with.
    pub tls: Option<Arc<ClientConfig>>,
    /// What to speak.
    pub protocol: Protocol,
}

/// A request that can be sent any number of times.
#[derive(Clone)]
pub struct Template {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers besides the host.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What the body of a good answer is, where that is known: a wrong answer with status 200 is a failure.
    pub expected: Option<Bytes>,
}

/// An open connection.
pub enum Connection {
    /// HTTP/1.1.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A whole response.
pub struct HttpResponse {
    /// The HTTP status.
    pub status: http::StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What came after the body, of which gRPC has its status.
    pub trailers: HeaderMap,
}

// === impl Server ===

impl Server {
    /// The front door at `address`, trusting exactly the CA in `ca_file`.
    ///
    /// # Errors
    /// The file is no certificate.
    pub fn front(address: SocketAddr, ca_file: &Path, protocol: Protocol) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca_file).context("cannot read the CA")? {
            roots.add(certificate?)?;
        }
        let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![protocol.alpn()];
        Ok(Self { address, name: ServerName::try_from("localhost")?, tls: Some(Arc::new(tls)), protocol })
    }

    /// Connects and does the TLS handshake.
    ///
    /// # Errors
    /// No connection within the time of one call.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        timeout(CALL_TIMEOUT, self.connect_unbounded()).await.context("no connection in time")?
    }

    async fn connect_unbounded(&self) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect(self.address).await.context("connect")?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => {
                let stream = TlsConnector::from(tls.clone()).connect(self.name.clone(), tcp).await.context("TLS")?;
                self.speak(stream).await
            }
            None => self.speak(tcp).await,
        }
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Connection> {
        let io = TokioIo::new(stream);
        Ok(match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.context("HTTP/1.1")?;
                tokio::spawn(connection);
                Connection::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.context("HTTP/2")?;
                tokio::spawn(connection);
                Connection::Http2(sender)
            }
        })
    }
}

// === impl Protocol ===

impl Protocol {
    fn alpn(self) -> Vec<u8> {
        match self {
            Self::Http1 => b"http/1.1".to_vec(),
            Self::Http2 => b"h2".to_vec(),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Whether another request can be sent on it.
    pub fn is_usable(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    /// A second handle to the same connection, where the protocol allows it.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Sends the request and takes the whole answer.
    ///
    /// # Errors
    /// The connection broke, or the answer did not come in time.
    pub async fn call(&mut self, template: &Template) -> anyhow::Result<HttpResponse> {
        timeout(CALL_TIMEOUT, self.call_unbounded(template)).await.context("no answer in time")?
    }

    async fn call_unbounded(&mut self, template: &Template) -> anyhow::Result<HttpResponse> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(template.request("localhost", false)?).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(template.request("localhost", true)?).await?
            }
        };
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(HttpResponse { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

// === impl Template ===

impl Template {
    /// A JSON call with a bearer token.
    ///
    /// # Errors
    /// The token cannot be a header.
    pub fn json(method: Method, path: &str, token: Option<&str>, body: impl Into<Bytes>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, bearer(token)?);
        }
        Ok(Self { method, path: path.to_owned(), headers, body: body.into(), expected: None })
    }

    /// A unary gRPC call with a bearer token.
    ///
    /// # Errors
    /// The token cannot be a header, or the message is over 4 GiB.
    pub fn grpc(path: &str, token: Option<&str>, message: &impl prost::Message) -> anyhow::Result<Self> {
        let encoded = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(encoded.len())?.to_be_bytes());
        framed.extend(encoded);
        let mut template = Self::json(Method::POST, path, token, framed)?;
        template.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        template.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(template)
    }

    /// The same call with another bearer token.
    ///
    /// # Errors
    /// The token cannot be a header.
    pub fn use_token(&mut self, token: &str) -> anyhow::Result<()> {
        self.headers.insert(header::AUTHORIZATION, bearer(token)?);
        Ok(())
    }

    /// Whether the call was served, and with the answer that was expected.
    ///
    /// # Errors
    /// What came instead.
    pub fn check(&self, answer: &HttpResponse) -> anyhow::Result<()> {
        answer.expect_good()?;
        let is_right = self.expected.as_ref().is_none_or(|expected| *expected == answer.body);
        ensure!(is_right, "another answer than expected: {}", String::from_utf8_lossy(&answer.body));
        Ok(())
    }

    fn request(&self, host: &str, absolute: bool) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(self.method.clone());
        builder = if absolute {
            builder.uri(format!("https://{host}{}", self.path))
        } else {
            builder.uri(&self.path).header(header::HOST, host)
        };
        let mut request = builder.body(Full::new(self.body.clone()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl HttpResponse ===

impl HttpResponse {
    /// The gRPC status code, if this is a gRPC answer.
    pub fn grpc_status(&self) -> Option<i32> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()?.parse().ok()
    }

    /// Whether the call was served.
    ///
    /// # Errors
    /// What came instead.
    pub fn expect_good(&self) -> anyhow::Result<()> {
        ensure!(self.status.is_success(), "{}: {}", self.status, String::from_utf8_lossy(&self.body));
        match self.grpc_status() {
            None | Some(0) => Ok(()),
            Some(code) => {
                let message = self.trailers.get("grpc-message").or_else(|| self.headers.get("grpc-message"));
                bail!("gRPC status {code}: {message:?}")
            }
        }
    }
}
