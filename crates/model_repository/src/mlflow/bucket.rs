//! What is read from the object storage: files below the path that the registry names, with a key that may only read.

use std::{path::Path, time::Duration};

use http::StatusCode;
use rusty_s3::{Bucket, Credentials, S3Action};
use sha256::Sha256Digest;
use url::Url;

use super::http::{Http, HttpError};

/// How long a signed address holds; it is used at once.
const SIGNED_FOR: Duration = Duration::from_secs(60);
const PATH_BYTES_MAX: usize = 900;
const SCHEME: &str = "mlflow-artifacts:/";

/// The folder of a model version below the root that MLflow keeps artifacts under, which is the bucket's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArtifactPath(String);

/// The bucket, for one refresh.
pub(super) struct Storage<'a> {
    pub(super) http: &'a Http,
    pub(super) bucket: &'a Bucket,
    pub(super) credentials: Credentials,
}

// === impl ArtifactPath ===

impl ArtifactPath {
    /// The folder that an artifact URI of MLflow names, if it is one that MLflow keeps.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix(SCHEME)?;
        let is_plain = |segment: &str| {
            let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            segment.chars().all(harmless) && segment.contains(|c| c != '.')
        };
        (path.len() <= PATH_BYTES_MAX && path.split('/').all(is_plain)).then(|| Self(path.to_owned()))
    }
}

// === impl Storage ===

impl Storage<'_> {
    /// A small file; none if there is no such file.
    pub(super) async fn read(
        &self,
        folder: &ArtifactPath,
        file: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, HttpError> {
        let (status, bytes) = self.http.get(self.signed(folder, file), bytes_max).await?;
        match status {
            StatusCode::OK => Ok(Some(bytes)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(HttpError::status(status, &bytes)),
        }
    }

    /// Writes a file to `path` and returns its digest; none if there is no such file.
    pub(super) async fn download(
        &self,
        folder: &ArtifactPath,
        file: &str,
        path: &Path,
        bytes_max: u64,
    ) -> Result<Option<Sha256Digest>, HttpError> {
        self.http.download(self.signed(folder, file), path, bytes_max).await
    }

    fn signed(&self, folder: &ArtifactPath, file: &str) -> Url {
        let key = format!("{}/{file}", folder.0);
        self.bucket.get_object(Some(&self.credentials), &key).sign(SIGNED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing leads out of the bucket, or to another object than the registry names.
    #[test]
    fn only_plain_paths_are_followed() {
        let parse = |uri: &str| ArtifactPath::parse(uri).map(|path| path.0);
        assert_eq!(parse("mlflow-artifacts:/1/models/m-ab/artifacts").as_deref(), Some("1/models/m-ab/artifacts"));
        for uri in [
            "mlflow-artifacts:/",
            "mlflow-artifacts:/1/../2",
            "mlflow-artifacts:/1//2",
            "mlflow-artifacts:/1/%2e%2e/2",
            "mlflow-artifacts://host:5000/1/models",
            "mlflow-artifacts:/1/models?x=1",
            "s3://mlflow-models/1/models",
            "file:///etc/passwd",
            "models:/m-ab",
            "",
        ] {
            assert_eq!(parse(uri), None, "{uri}");
        }
        assert_eq!(parse(&format!("mlflow-artifacts:/{}", "a".repeat(PATH_BYTES_MAX + 1))), None);
    }
}
