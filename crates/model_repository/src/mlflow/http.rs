//! HTTPS as far as a refresh needs it: answers that are bounded in size and time, and are either whole or an error.

use std::{path::Path, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use https_client::{Bounds, HttpsClient, HttpsError, Timeouts};
use identity::Identity;
use sha256::{Hasher, Sha256Digest};
use tokio::{fs::File, io::AsyncWriteExt};
use url::Url;

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), silence: Duration::from_secs(10) };
/// For an answer that is kept in memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For a model file: 512 MiB at 2 MiB/s.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(256);
/// What is repeated of a server's error text.
const SAID_CHARS_MAX: usize = 200;

/// Why there is no answer to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No answer, or no whole one.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// Neither what was asked for nor "there is no such thing".
    #[error("it answered {status}: {said}")]
    Status {
        /// What it answered.
        status: StatusCode,
        /// The beginning of its explanation.
        said: String,
    },
    /// Not the JSON that the interface promises.
    #[error("it answered something else than its interface says")]
    Json(#[source] serde_json::Error),
    /// The answer could not be written to the disk.
    #[error("its answer cannot be written to a file")]
    Disk(#[source] std::io::Error),
}

/// A client for one refresh: no connection outlives it, so none outlives the certificates it was opened with by more.
pub(super) struct Http(HttpsClient);

// === impl Http ===

impl Http {
    /// TLS 1.3 with the replica's certificate, to servers that the platform's CA has signed.
    pub(super) fn new(identity: &Arc<Identity>) -> Result<Self, HttpError> {
        let tls = Arc::unwrap_or_clone(identity.third_party_client_config());
        Ok(Self(HttpsClient::with_tls(tls, TIMEOUTS)?))
    }

    /// The whole answer, whatever its status.
    pub(super) async fn get(&self, url: Url, bytes_max: u64) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let bounds = Bounds { timeout: ANSWER_TIMEOUT, body_bytes_max: bytes_max };
        let answer = self.0.send(request(&url)?, bounds).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?))
    }

    /// Writes the answer into a file and returns its digest; none if there is no such thing.
    pub(super) async fn download(
        &self,
        url: Url,
        path: &Path,
        bytes_max: u64,
    ) -> Result<Option<Sha256Digest>, HttpError> {
        let bounds = Bounds { timeout: DOWNLOAD_TIMEOUT, body_bytes_max: bytes_max };
        let answer = self.0.send(request(&url)?, bounds).await?;
        let (status, mut body) = (answer.status(), answer.into_body());
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(HttpError::status(status, &body.next().await.ok().flatten().unwrap_or_default())),
        }
        let mut file = File::create(path).await.map_err(HttpError::Disk)?;
        let mut hasher = Hasher::new();
        while let Some(piece) = body.next().await? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(HttpError::Disk)?;
        }
        file.sync_all().await.map_err(HttpError::Disk)?;
        Ok(Some(hasher.finish()))
    }
}

fn request(url: &Url) -> Result<Request<Vec<u8>>, HttpsError> {
    Ok(Request::get(url.as_str()).body(Vec::new())?)
}

// === impl HttpError ===

impl HttpError {
    /// A status that nothing can be done with, with the beginning of what was said about it.
    pub(super) fn status(status: StatusCode, said: &[u8]) -> Self {
        let said = String::from_utf8_lossy(said);
        // S3 explains itself in XML, with the key and what was signed: only the code is for a log.
        let said = match said.split_once("<Code>") {
            Some((_, rest)) => rest.split('<').next().unwrap_or_default(),
            None => &said,
        };
        let said = said.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect();
        Self::Status { status, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_access_key_is_repeated() {
        let xml =
            b"<?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>k</AWSAccessKeyId></Error>";
        let told = |body: &[u8]| HttpError::status(StatusCode::FORBIDDEN, body).to_string();
        assert_eq!(told(xml), "it answered 403 Forbidden: InvalidAccessKeyId");
        assert_eq!(told(b"{\"error_code\":\n\"X\"}"), "it answered 403 Forbidden: {\"error_code\":\"X\"}");
        assert!(told(&[b'x'; 1000]).len() < 300);
    }
}
