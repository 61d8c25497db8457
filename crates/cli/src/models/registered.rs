//! A registered model of MLflow and its versions, as far as they are read and written here.

use anyhow::{Context as _, ensure};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    folder::CHAMPION,
    registry::{Folder, Registry},
};

/// The tag with the digest of the files; serving believes nothing else of them.
pub(crate) const DIGEST_TAG: &str = "sha256";
/// The experiment that logged models belong to, as for the example models.
const EXPERIMENT: &str = "models";
const VERSIONS_PER_PAGE: &str = "1000";
const PAGES_MAX: usize = 20;

/// A registered model that is there.
#[derive(Deserialize)]
pub(crate) struct RegisteredModel {
    #[serde(default)]
    aliases: Vec<Alias>,
}

#[derive(Deserialize)]
struct Alias {
    alias: String,
}

/// A version of one.
#[derive(Deserialize)]
pub(crate) struct ModelVersion {
    version: String,
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
struct Page {
    #[serde(default)]
    model_versions: Vec<ModelVersion>,
    #[serde(default)]
    next_page_token: String,
}

// === impl RegisteredModel ===

impl RegisteredModel {
    pub(crate) async fn find(registry: &Registry, name: &str) -> anyhow::Result<Option<Self>> {
        let answer = registry.find("registered-models/get", &[("name", name)]).await?;
        answer.map(|answer| member(&answer, "registered_model")).transpose()
    }

    /// Whether a call without a version means one of its versions.
    pub(crate) fn has_champion(&self) -> bool {
        self.aliases.iter().any(|alias| alias.alias == CHAMPION)
    }
}

// === impl ModelVersion ===

impl ModelVersion {
    pub(crate) async fn find(registry: &Registry, name: &str, version: u64) -> anyhow::Result<Option<Self>> {
        let query = [("name", name), ("version", &*version.to_string())];
        let answer = registry.find("model-versions/get", &query).await?;
        answer.map(|answer| member(&answer, "model_version")).transpose()
    }

    /// The version of a model that has these very files.
    pub(crate) async fn with_digest(registry: &Registry, name: &str, digest: &str) -> anyhow::Result<Option<u64>> {
        let (filter, mut token) = (format!("name='{name}'"), String::new());
        for _ in 0..PAGES_MAX {
            let query = [("filter", &*filter), ("max_results", VERSIONS_PER_PAGE), ("page_token", &*token)];
            let asked = query.get(..if token.is_empty() { 2 } else { 3 }).unwrap_or_default();
            let page = registry.find("model-versions/search", asked).await?;
            let page: Page = page.map(serde_json::from_value).transpose()?.unwrap_or_default();
            if let Some(same) = page.model_versions.iter().find(|version| version.digest() == Some(digest)) {
                return same.number().map(Some);
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(None)
    }

    /// Of its files, if it has the tag.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == DIGEST_TAG).map(|tag| &*tag.value)
    }

    pub(crate) fn number(&self) -> anyhow::Result<u64> {
        self.version.parse().with_context(|| format!("MLflow calls a version {:?}, which is no number", self.version))
    }
}

/// A logged model that has no files yet: its id, and the folder for them.
pub(crate) async fn log_model(registry: &Registry, name: &str, digest: &str) -> anyhow::Result<(String, Folder)> {
    let tags = json!([{ "key": DIGEST_TAG, "value": digest }]);
    let body = json!({ "experiment_id": experiment(registry).await?, "name": name, "tags": tags });
    let answer = registry.change(Method::POST, "logged-models", &body).await?;
    let info = answer.pointer("/model/info").context("MLflow made a model without telling of it")?;
    Ok((text(info, "model_id")?, Folder::parse(&text(info, "artifact_uri")?)?))
}

/// Makes a version of a logged model whose files are all there, and the registered model unless there is one.
pub(crate) async fn register(
    registry: &Registry,
    name: &str,
    is_new: bool,
    model_id: &str,
    digest: &str,
) -> anyhow::Result<u64> {
    let ready = json!({ "model_id": model_id, "status": "LOGGED_MODEL_READY" });
    registry.change(Method::PATCH, &format!("logged-models/{model_id}"), &ready).await?;
    if is_new {
        registry.change(Method::POST, "registered-models/create", &json!({ "name": name })).await?;
    }
    let (source, tags) = (format!("models:/{model_id}"), json!([{ "key": DIGEST_TAG, "value": digest }]));
    let body = json!({ "name": name, "source": source, "model_id": model_id, "tags": tags });
    let answer = registry.change(Method::POST, "model-versions/create", &body).await?;
    let made: ModelVersion = member(&answer, "model_version")?;
    ensure!(made.status == "READY", "MLflow says that version {} is {}, and not READY", made.version, made.status);
    made.number()
}

/// The folder with the files of a version.
pub(crate) async fn folder(registry: &Registry, name: &str, version: u64) -> anyhow::Result<Folder> {
    let query = [("name", name), ("version", &*version.to_string())];
    let answer = registry.find("model-versions/get-download-uri", &query).await?;
    let answer = answer.with_context(|| format!("{name} has no version {version} in MLflow"))?;
    Folder::parse(&text(&answer, "artifact_uri")?)
}

/// Says what the digest of a version's files is: from now on it is served.
pub(crate) async fn set_digest(registry: &Registry, name: &str, version: u64, digest: &str) -> anyhow::Result<()> {
    let body = json!({ "name": name, "version": version.to_string(), "key": DIGEST_TAG, "value": digest });
    registry.change(Method::POST, "model-versions/set-tag", &body).await.map(drop)
}

/// Lets an alias mean a version.
pub(crate) async fn set_alias(registry: &Registry, name: &str, alias: &str, version: u64) -> anyhow::Result<()> {
    let body = json!({ "name": name, "alias": alias, "version": version.to_string() });
    registry.change(Method::POST, "registered-models/alias", &body).await.map(drop)
}

async fn experiment(registry: &Registry) -> anyhow::Result<String> {
    let query = [("experiment_name", EXPERIMENT)];
    match registry.find("experiments/get-by-name", &query).await? {
        Some(answer) => text(answer.get("experiment").unwrap_or(&Value::Null), "experiment_id"),
        None => {
            let body = json!({ "name": EXPERIMENT });
            text(&registry.change(Method::POST, "experiments/create", &body).await?, "experiment_id")
        }
    }
}

fn member<T: serde::de::DeserializeOwned>(answer: &Value, key: &str) -> anyhow::Result<T> {
    let member = answer.get(key).with_context(|| format!("MLflow's answer has no {key}"))?;
    serde_json::from_value(member.clone()).with_context(|| format!("MLflow's {key} is not as its interface says"))
}

fn text(answer: &Value, key: &str) -> anyhow::Result<String> {
    let text = answer.get(key).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("MLflow's answer has no {key}"))
}
