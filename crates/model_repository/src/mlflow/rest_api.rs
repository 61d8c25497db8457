//! What is asked of MLflow (REST API 2.0): which models, versions and aliases there are, and where the files of one lie.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{
    bucket::ArtifactPath,
    http::{Http, HttpError},
};
use crate::names::{ModelName, Version};

/// The most that one answer may hold: a page of models with all their descriptions and tags.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
const PAGE_SIZE: usize = 100;
/// How many pages of models are read, whatever their names.
const PAGES_MAX: usize = 20;
/// What MLflow says of a version whose files are all there.
const READY: &str = "READY";
/// The tag with the SHA-256 of the model file.
const DIGEST_TAG: &str = "sha256";

/// The registry, for one refresh.
pub(super) struct MlFlow<'a> {
    pub(super) http: &'a Http,
    pub(super) root: &'a Url,
}

/// A registered model.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RegisteredModel {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    aliases: Vec<Alias>,
}

/// A version of a registered model, all of whose files are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelVersion {
    pub(super) number: Version,
    /// Where it came from: tells one version from another that got its number later.
    pub(super) source: String,
    /// The tag `sha256`, as it is.
    pub(super) digest: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Alias {
    alias: String,
    version: Version,
}

#[derive(Deserialize)]
struct ModelsPage {
    #[serde(default)]
    registered_models: Vec<RegisteredModel>,
    #[serde(default)]
    next_page_token: String,
}

#[derive(Deserialize)]
struct ModelAnswer {
    registered_model: RegisteredModel,
}

#[derive(Deserialize)]
struct VersionsPage {
    #[serde(default)]
    model_versions: Vec<VersionRow>,
}

#[derive(Deserialize)]
struct VersionAnswer {
    model_version: VersionRow,
}

#[derive(Deserialize)]
struct VersionRow {
    version: Version,
    #[serde(default)]
    source: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct UriAnswer {
    artifact_uri: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error_code: String,
}

// === impl MlFlow ===

impl MlFlow<'_> {
    /// Every registered model, by name; of more than [`PAGES_MAX`] pages the rest is not seen.
    pub(super) async fn models(&self) -> Result<Vec<RegisteredModel>, HttpError> {
        let (mut models, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let size = PAGE_SIZE.to_string();
            let mut query = vec![("max_results", &*size)];
            if !token.is_empty() {
                query.push(("page_token", &token));
            }
            let page: Option<ModelsPage> = self.ask("registered-models/search", &query).await?;
            let Some(page) = page else { break };
            models.extend(page.registered_models);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(models)
    }

    /// One registered model, if there is one.
    pub(super) async fn model(&self, name: &ModelName) -> Result<Option<RegisteredModel>, HttpError> {
        let answer: Option<ModelAnswer> = self.ask("registered-models/get", &[("name", name.as_str())]).await?;
        Ok(answer.map(|answer| answer.registered_model))
    }

    /// The newest versions of a model that are ready.
    pub(super) async fn newest(&self, name: &ModelName, max: usize) -> Result<Vec<ModelVersion>, HttpError> {
        // A model's name has no quotes: `ModelName::parse`.
        let (filter, max) = (format!("name='{name}'"), max.to_string());
        let query = [("filter", &*filter), ("order_by", "version_number DESC"), ("max_results", &*max)];
        let page: Option<VersionsPage> = self.ask("model-versions/search", &query).await?;
        let rows = page.map(|page| page.model_versions).unwrap_or_default();
        Ok(rows.into_iter().filter_map(VersionRow::ready).collect())
    }

    /// One version, if there is one that is ready.
    pub(super) async fn version(&self, name: &ModelName, number: Version) -> Result<Option<ModelVersion>, HttpError> {
        let number = number.to_string();
        let query = [("name", name.as_str()), ("version", &*number)];
        let answer: Option<VersionAnswer> = self.ask("model-versions/get", &query).await?;
        Ok(answer.and_then(|answer| answer.model_version.ready()))
    }

    /// Where the files of a version lie, or the URI that says they are not where MLflow keeps files for others.
    pub(super) async fn artifacts(
        &self,
        name: &ModelName,
        number: Version,
    ) -> Result<Result<ArtifactPath, String>, HttpError> {
        let number = number.to_string();
        let query = [("name", name.as_str()), ("version", &*number)];
        let answer: Option<UriAnswer> = self.ask("model-versions/get-download-uri", &query).await?;
        let uri = answer.map(|answer| answer.artifact_uri).unwrap_or_default();
        Ok(ArtifactPath::parse(&uri).ok_or(uri))
    }

    /// None if MLflow knows no such thing. Its proxy answers 404 too, for what it does not let through.
    async fn ask<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<T>, HttpError> {
        let mut url = self.root.clone();
        url.set_path(&format!("/api/2.0/mlflow/{path}"));
        url.query_pairs_mut().extend_pairs(query);
        let (status, body) = self.http.get(url, ANSWER_BYTES_MAX).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map(Some).map_err(HttpError::Json);
        }
        let is_unknown =
            serde_json::from_slice::<ErrorBody>(&body).is_ok_and(|error| error.error_code == "RESOURCE_DOES_NOT_EXIST");
        if is_unknown { Ok(None) } else { Err(HttpError::status(status, &body)) }
    }
}

// === impl RegisteredModel, VersionRow ===

impl RegisteredModel {
    /// What each alias means.
    pub(super) fn aliases(&self) -> BTreeMap<&str, Version> {
        self.aliases.iter().map(|alias| (&*alias.alias, alias.version)).collect()
    }
}

impl VersionRow {
    fn ready(self) -> Option<ModelVersion> {
        let digest = self.tags.into_iter().find(|tag| tag.key == DIGEST_TAG).map(|tag| tag.value);
        (self.status == READY).then_some(ModelVersion { number: self.version, source: self.source, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As MLflow 3.17 answers.
    #[test]
    fn answers_are_read() {
        let page: ModelsPage = serde_json::from_str(
            r#"{ "registered_models": [{ "name": "m", "creation_timestamp": 1, "latest_versions": [{ "name": "m" }],
                 "aliases": [{ "alias": "champion", "version": "2" }] }], "next_page_token": "eyJ9" }"#,
        )
        .unwrap();
        assert_eq!(page.registered_models[0].aliases()["champion"].to_string(), "2");
        let row = |status: &str| {
            let text = format!(
                r#"{{ "name": "m", "version": "2", "source": "models:/m-1", "status": "{status}",
                      "tags": [{{ "key": "sha256", "value": "ab" }}, {{ "key": "flag" }}] }}"#
            );
            serde_json::from_str::<VersionRow>(&text).unwrap().ready()
        };
        assert_eq!(row(READY).unwrap().digest.as_deref(), Some("ab"));
        assert_eq!(row("PENDING_REGISTRATION"), None);
        assert!(serde_json::from_str::<ModelsPage>("{}").unwrap().registered_models.is_empty());
    }
}
