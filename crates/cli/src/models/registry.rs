//! MLflow as the command line speaks to it: its REST API 2.0 through the front door, with a token.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use http::{Method, Request, StatusCode, header};
use https_client::{AnswerBody, Bounds, HttpsClient, Timeouts};
use serde::Deserialize;
use serde_json::Value;
use tokio::{fs::File, io::AsyncWriteExt as _};
use url::Url;

use crate::connection::{Connection, Platform};

/// MLflow writes a file to the bucket before it answers.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(3), silence: Duration::from_secs(120) };
/// For a page of versions with their tags.
const ANSWER: Bounds = Bounds { timeout: Duration::from_secs(60), body_bytes_max: 16 << 20 };
/// For a file of 512 MiB, at 2 MiB/s.
const FILE_TIMEOUT: Duration = Duration::from_secs(256);
/// What the front and MLflow let through.
pub(crate) const FILE_BYTES_MAX: u64 = 512 << 20;
const ARTIFACTS: &str = "/api/2.0/mlflow-artifacts/artifacts";
const SCHEME: &str = "mlflow-artifacts:/";

/// Which registry is meant.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// MLflow's address, as its own client is told; without it, the front door.
    #[arg(long, env = "MLFLOW_TRACKING_URI")]
    tracking_uri: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// A registry.
pub(crate) struct Registry {
    http: HttpsClient,
    root: Url,
    platform: Platform,
}

/// A folder of artifacts that MLflow keeps.
pub(crate) struct Folder(String);

/// What is in one.
#[derive(Deserialize)]
pub(crate) struct Artifact {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) is_dir: bool,
}

#[derive(Default, Deserialize)]
struct Listing {
    #[serde(default)]
    files: Vec<Artifact>,
}

// === impl Registry ===

impl Registry {
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let platform = options.connection.open("engineer")?;
        let address = options.tracking_uri.as_deref().unwrap_or_else(|| platform.front());
        let root = Url::parse(address).ok().filter(|url| url.scheme() == "https" && url.path() == "/");
        let root = root.with_context(|| format!("{address:?} is no address of MLflow: https://host:port is one"))?;
        let ca_file = platform.ca_file();
        let pem = std::fs::read(ca_file).with_context(|| format!("cannot read the CA {}", ca_file.display()))?;
        let http = HttpsClient::trusting(&pem, TIMEOUTS, platform.proxies())
            .with_context(|| format!("cannot use {}", ca_file.display()))?;
        Ok(Self { http, root, platform })
    }

    /// The platform whose registry it is.
    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Asks for something; none if there is no such thing.
    pub(crate) async fn find(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Option<Value>> {
        let mut url = self.url(&format!("/api/2.0/mlflow/{path}"));
        url.query_pairs_mut().extend_pairs(query);
        let (status, body) = self.ask(Method::GET, &url, None).await?;
        let is_unknown = body.get("error_code").and_then(Value::as_str) == Some("RESOURCE_DOES_NOT_EXIST");
        if is_unknown { Ok(None) } else { self.expect_success(path, status, body).map(Some) }
    }

    /// Makes or changes something.
    pub(crate) async fn change(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = self.url(&format!("/api/2.0/mlflow/{path}"));
        let (status, answer) = self.ask(method, &url, Some(body)).await?;
        self.expect_success(path, status, answer)
    }

    /// What is in a folder of artifacts.
    pub(crate) async fn list(&self, folder: &Folder) -> anyhow::Result<Vec<Artifact>> {
        let mut url = self.url(ARTIFACTS);
        url.query_pairs_mut().append_pair("path", &folder.0);
        let (status, body) = self.ask(Method::GET, &url, None).await?;
        let listing: Listing = serde_json::from_value(self.expect_success("the list of artifacts", status, body)?)?;
        Ok(listing.files)
    }

    /// Puts a file into a folder of artifacts.
    pub(crate) async fn upload(&self, folder: &Folder, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "{name}: more than the {FILE_BYTES_MAX} bytes that are served");
        let url = self.url(&format!("{ARTIFACTS}/{}/{name}", folder.0));
        let request = Request::put(url.as_str()).header(header::CONTENT_TYPE, "application/octet-stream");
        let bounds = Bounds { timeout: FILE_TIMEOUT, ..ANSWER };
        let (status, body) = json(self.send(request, bytes, bounds).await?).await?;
        self.expect_success(&format!("writing {name}"), status, body).map(drop)
    }

    /// Writes a file of a folder of artifacts to a path; returns its length.
    pub(crate) async fn download(
        &self,
        folder: &Folder,
        name: &str,
        path: &Path,
        bytes_max: u64,
    ) -> anyhow::Result<u64> {
        let url = self.url(&format!("{ARTIFACTS}/{}/{name}", folder.0));
        let bounds = Bounds { timeout: FILE_TIMEOUT, body_bytes_max: bytes_max };
        let answer = self.send(Request::get(url.as_str()), Vec::new(), bounds).await?;
        if !answer.status().is_success() {
            let (status, body) = json(answer).await?;
            return self.expect_success(&format!("reading {name}"), status, body).map(|_| 0);
        }
        let mut file = File::create(path).await.with_context(|| format!("cannot write {}", path.display()))?;
        let (mut body, mut length) = (answer.into_body(), 0);
        while let Some(piece) = body.next().await.with_context(|| format!("cannot read {name}"))? {
            length += piece.len() as u64;
            file.write_all(&piece).await.with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.flush().await?;
        Ok(length)
    }

    async fn ask(&self, method: Method, url: &Url, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = Request::builder().method(method).uri(url.as_str());
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        json(self.send(request, body, ANSWER).await?).await
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        bounds: Bounds,
    ) -> anyhow::Result<http::Response<AnswerBody>> {
        let token = self.platform.token().await?.unwrap_or_default();
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(body)?;
        self.http.send(request, bounds).await.with_context(|| format!("no answer from MLflow at {}", self.root))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(path);
        url
    }

    /// The body of a success; of anything else, an error with the reason that MLflow or the front gave.
    fn expect_success(&self, what: &str, status: StatusCode, body: Value) -> anyhow::Result<Value> {
        if status.is_success() {
            return Ok(body);
        }
        let reason = ["message", "detail", "error"].iter().find_map(|key| body.get(key)?.as_str());
        bail!("MLflow at {} refused {what} with {status}: {}", self.root, reason.unwrap_or("no reason given"))
    }
}

/// The whole answer; null if it is no JSON.
async fn json(answer: http::Response<AnswerBody>) -> anyhow::Result<(StatusCode, Value)> {
    let status = answer.status();
    let bytes = answer.into_body().collect().await.context("no whole answer from MLflow")?;
    Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

// === impl Folder ===

impl Folder {
    /// The folder that an artifact URI names, if it is one that MLflow keeps.
    pub(crate) fn parse(uri: &str) -> anyhow::Result<Self> {
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_plain = |segment: &str| segment.chars().all(harmless) && segment.contains(|c| c != '.');
        let path = uri.strip_prefix(SCHEME).filter(|path| path.split('/').all(is_plain));
        let path = path.with_context(|| {
            format!("its files lie at {uri:?}, and only what MLflow itself keeps ({SCHEME}…) is served: log the model through MLflow")
        })?;
        Ok(Self(path.to_owned()))
    }
}
