//! An HTTPS client of the front door, which trusts one CA.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
pub use https_client::Proxies;
use https_client::{Bounds, HttpsClient, Timeouts};
use serde_json::Value;

use crate::api_path::ApiPath;

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(3), silence: Duration::from_secs(30) };
/// The longest answers are pages of the audit log.
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(30), body_bytes_max: 16 << 20 };
/// More certificates than any platform has.
const CA_BYTES_MAX: u64 = 1 << 20;

/// A client of one platform. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: HttpsClient,
    front: String,
}

/// The response to a call: the status, and the body if it was JSON.
pub struct ApiResponse {
    /// Its status.
    pub status: StatusCode,
    /// Which state of the resource it shows, for a change of just that state.
    pub etag: Option<HeaderValue>,
    /// Its body; null if that was no JSON.
    pub body: Value,
}

// === impl Client ===

impl Client {
    /// A client of the front door at a URL, that trusts exactly the CA in `ca_file`.
    pub fn new(front: &str, ca_file: &Path, proxies: Proxies) -> anyhow::Result<Self> {
        let front = origin(front)?;
        let pem = read_bounded(ca_file).with_context(|| format!("cannot read the CA {}", ca_file.display()))?;
        let http = HttpsClient::trusting(&pem, TIMEOUTS, proxies).with_context(|| {
            format!(
                "{} is not the file of the platform's CA, which is PEM: scripts/up writes certs/ca.pem, and rampart dev ca/ca.pem",
                ca_file.display()
            )
        })?;
        Ok(Self { http, front })
    }

    /// The front door's URL.
    pub fn front(&self) -> &str {
        &self.front
    }

    /// Calls a route with a JSON body or none.
    pub async fn call(
        &self,
        method: Method,
        path: impl Into<ApiPath>,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<ApiResponse> {
        self.call_if_match(method, path, token, body, None).await
    }

    /// Calls a route for a change of the state that this tag is of, or of any.
    pub async fn call_if_match(
        &self,
        method: Method,
        path: impl Into<ApiPath>,
        token: Option<&str>,
        body: Option<&Value>,
        etag: Option<&HeaderValue>,
    ) -> anyhow::Result<ApiResponse> {
        let url = format!("{}{}", self.front, path.into());
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(body.map(Value::to_string).unwrap_or_default().into_bytes());
        // Not with its cause: that may be the token.
        let request =
            request.ok().with_context(|| format!("{url} cannot be called: the token, or the URL, is no such thing"))?;
        let response = self.http.send(request, BOUNDS).await.with_context(|| format!("no answer from {url}"))?;
        let (status, etag) = (response.status(), response.headers().get(header::ETAG).cloned());
        let bytes = response.into_body().collect().await.with_context(|| format!("no whole answer from {url}"))?;
        Ok(ApiResponse { status, etag, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    /// Exchanges a grant for an access token.
    pub async fn token(&self, grant: &Value) -> anyhow::Result<String> {
        let answer = self.call(Method::POST, "/api/auth/token", None, Some(grant)).await?;
        let body = answer.expect_success("the login")?;
        let token = body.get("access_token").and_then(Value::as_str).context("the answer has no access_token")?;
        Ok(token.to_owned())
    }
}

/// A device has no end.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(CA_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > CA_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {CA_BYTES_MAX} bytes")));
    }
    Ok(content)
}

/// The URL of a front door as calls begin with it. A query or fragment in it would swallow their paths.
fn origin(front: &str) -> anyhow::Result<String> {
    let uri: Option<Uri> = front.parse().ok().filter(|_| !front.contains('#'));
    let is_origin = |uri: &Uri| {
        let authority = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        authority && uri.scheme_str() == Some("https") && uri.query().is_none()
    };
    ensure!(uri.as_ref().is_some_and(is_origin), "{front:?} is no front door: give one as https://HOST:PORT");
    Ok(front.trim_end_matches('/').to_owned())
}

// === impl ApiResponse ===

impl ApiResponse {
    /// The body of a success; of anything else, an error with the reason that the platform gave.
    pub fn expect_success(self, what: &str) -> anyhow::Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let reason =
            ["detail", "error"].iter().find_map(|key| self.body.get(key)?.as_str()).unwrap_or("no reason given");
        bail!("{what} was refused with {}: {reason}", self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ca_is_refused_with_where_one_is() {
        let refused = |file: &str| {
            let client = Client::new("https://localhost:1", Path::new(file), Proxies::Never);
            format!("{:#}", client.err().unwrap())
        };
        assert!(
            refused("/dev/null").contains("/dev/null is not the file of the platform's CA"),
            "{}",
            refused("/dev/null")
        );
        assert!(refused("/dev/zero").contains("larger than"), "{}", refused("/dev/zero"));
        assert!(refused("/nowhere/ca.pem").contains("cannot read the CA /nowhere/ca.pem"));
    }

    #[test]
    fn a_front_door_is_an_https_url_without_query() {
        for front in
            ["https://localhost:8095", "https://localhost:8095/", "https://[::1]:8095", "https://example.org/ml"]
        {
            assert_eq!(origin(front).unwrap(), front.trim_end_matches('/'));
        }
        for wrong in
            ["localhost:8095", "http://localhost", "https://h?a=", "https://h/#", "https://me@h", "https://", "/", ""]
        {
            assert!(origin(wrong).is_err(), "{wrong:?}");
        }
    }
}
