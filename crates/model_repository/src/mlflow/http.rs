//! HTTPS as far as a refresh needs it: answers that are bounded in size and time, and are either whole or an error.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use identity::Identity;
use reqwest::{Client, Response, StatusCode, redirect};
use sha256::{Hasher, Sha256Digest};
use tokio::{fs::File, io::AsyncWriteExt};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two pieces of an answer, and before the first.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// For an answer that is kept in memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For a model file: 512 MiB at 2 MiB/s.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(256);
/// What is repeated of a server's error text.
const SAID_CHARS_MAX: usize = 200;

/// Why there is no answer to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No connection, no TLS, no time left. Addresses are left out: those of the storage are signed.
    #[error("it does not answer")]
    Silent(#[source] reqwest::Error),
    /// It began and did not end.
    #[error("it broke off its answer")]
    BrokenOff(#[source] reqwest::Error),
    /// Longer than it may be.
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
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
pub(super) struct Http(Client);

/// An answer piece by piece, that ends with an error where it gets too long.
struct Pieces {
    response: Response,
    bytes_max: u64,
    left: u64,
}

// === impl Http ===

impl Http {
    /// TLS 1.3 with the replica's certificate, to servers that the platform's CA has signed.
    pub(super) fn new(identity: &Arc<Identity>) -> Result<Self, HttpError> {
        let client = Client::builder()
            .tls_backend_preconfigured(Arc::unwrap_or_clone(identity.third_party_client_config()))
            .https_only(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .timeout(ANSWER_TIMEOUT)
            .build();
        client.map(Self).map_err(HttpError::Silent)
    }

    /// The whole answer, whatever its status.
    pub(super) async fn get(&self, url: Url, bytes_max: u64) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let response = self.0.get(url).send().await.map_err(|error| HttpError::Silent(error.without_url()))?;
        let (status, mut pieces, mut bytes) = (response.status(), Pieces::of(response, bytes_max)?, Vec::new());
        while let Some(piece) = pieces.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok((status, bytes))
    }

    /// Writes the answer into a file and returns its digest; none if there is no such thing.
    pub(super) async fn download(
        &self,
        url: Url,
        path: &Path,
        bytes_max: u64,
    ) -> Result<Option<Sha256Digest>, HttpError> {
        let request = self.0.get(url).timeout(DOWNLOAD_TIMEOUT);
        let mut response = request.send().await.map_err(|error| HttpError::Silent(error.without_url()))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => {
                return Err(HttpError::status(status, &response.chunk().await.ok().flatten().unwrap_or_default()));
            }
        }
        let mut pieces = Pieces::of(response, bytes_max)?;
        let mut file = File::create(path).await.map_err(HttpError::Disk)?;
        let mut hasher = Hasher::new();
        while let Some(piece) = pieces.next().await? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(HttpError::Disk)?;
        }
        file.sync_all().await.map_err(HttpError::Disk)?;
        Ok(Some(hasher.finish()))
    }
}

// === impl Pieces ===

impl Pieces {
    fn of(response: Response, bytes_max: u64) -> Result<Self, HttpError> {
        if response.content_length().is_some_and(|length| length > bytes_max) {
            return Err(HttpError::TooLong(bytes_max));
        }
        Ok(Self { response, bytes_max, left: bytes_max })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        let piece = self.response.chunk().await.map_err(|error| HttpError::BrokenOff(error.without_url()))?;
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.left = self.left.checked_sub(length).ok_or(HttpError::TooLong(self.bytes_max))?;
        Ok(piece)
    }
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
