//! What a platform had, to be looked for in the one that was rebuilt.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, say},
};
use gateway::audit::{GENESIS, StoredRecord, verify_chain};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    models::{Engineer, text},
    restore::make_account,
};

/// Registered for this test, out of a file; beside the examples.
const MODEL: &str = "disaster";
const EXAMPLES: [&str; 3] = ["breast-cancer-boosting", "breast-cancer-forest", "digits-mlp"];
const REGISTRY: [&str; 2] = ["/api/2.0/mlflow/registered-models/search", "/api/2.0/mlflow/model-versions/search"];

/// Accounts, tokens, models and predictions of before.
pub(super) struct Evidence {
    kept_secret: String,
    deleted_secret: String,
    revoked_token: String,
    /// By path: every model, version, alias and tag, the digests among them.
    registry: BTreeMap<&'static str, Value>,
    /// By model.
    outputs: BTreeMap<String, Value>,
}

// === impl Evidence ===

impl Evidence {
    /// Makes a model out of a file, with a second alias, accounts that stay and that go, and a token that is revoked.
    pub(super) async fn make(platform: &Containers, folder: &Path) -> anyhow::Result<Self> {
        let engineer = Engineer::new(platform, folder).await?;
        let given = given();
        for file in ["model.onnx", "ext.onnx.data"] {
            fs::copy(given.join(file), folder.join(file))?;
        }
        let file = folder.join("model.onnx");
        let registered = engineer.models(&["register", file.to_str().context("a path")?, "--name", MODEL]).await?;
        ensure!(text(&registered).contains("version 1 serves"), "{registered:?}");
        let alias = json!({ "name": MODEL, "alias": "second", "version": "1" });
        let path = "/api/2.0/mlflow/registered-models/alias";
        let (status, answer) = platform.front.call(Method::POST, path, Some(engineer.token()), Some(&alias)).await?;
        ensure!(status.is_success(), "{status} {answer}");

        let (_, kept_secret) = make_account(platform, "disaster-kept").await?;
        let (deleted, deleted_secret) = make_account(platform, "disaster-deleted").await?;
        let admin = platform.admin().await?;
        let path = format!("/api/admin/users/{deleted}");
        let (status, answer) = platform.front.call(Method::DELETE, &path, Some(&admin), None).await?;
        ensure!(status.is_success(), "{status} {answer}");
        let revoked_token = platform.front.login("disaster-kept", &kept_secret).await?;
        let body = json!({ "token": revoked_token });
        let (status, answer) =
            platform.front.call(Method::POST, "/api/auth/revoke", Some(&revoked_token), Some(&body)).await?;
        ensure!(status.is_success(), "{status} {answer}");
        let (registry, outputs) = (registry(platform).await?, outputs(platform).await?);
        Ok(Self { kept_secret, deleted_secret, revoked_token, registry, outputs })
    }

    /// All of it is there in the platform that was rebuilt, and nothing that was ended is valid again.
    pub(super) async fn expect(&self, platform: &Containers, folder: &Path) -> anyhow::Result<()> {
        // A person with a password, and a machine.
        Engineer::new(platform, folder).await?;
        platform.front.login("disaster-kept", &self.kept_secret).await?;
        let deleted = platform.front.login("disaster-deleted", &self.deleted_secret).await;
        ensure!(deleted.is_err(), "a user who was deleted logs in");
        let (status, _) = platform.front.call(Method::GET, "/api/auth/me", Some(&self.revoked_token), None).await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "a token that was revoked is answered with {status}");
        for (path, found) in registry(platform).await? {
            let kept = self.registry.get(path).context("a path")?;
            ensure!(*kept == found, "{path} was {kept}, and is {found}");
        }
        for (model, found) in outputs(platform).await? {
            let kept = self.outputs.get(&model).context("a model")?;
            ensure!(*kept == found, "{model} predicted {kept}, and predicts {found}");
        }
        verify_audit(platform).await
    }
}

fn given() -> PathBuf {
    repository().join("crates/serving/tests/data/models/external-data/1")
}

async fn registry(platform: &Containers) -> anyhow::Result<BTreeMap<&'static str, Value>> {
    let token = platform.analyst().await?;
    let mut found = BTreeMap::new();
    for path in REGISTRY {
        let (status, answer) = platform.front.call(Method::GET, path, Some(&token), None).await?;
        ensure!(status.is_success() && answer.to_string().contains(MODEL), "{path}: {status} {answer}");
        found.insert(path, answer);
    }
    Ok(found)
}

/// What each model answers to the inputs of its golden example.
async fn outputs(platform: &Containers) -> anyhow::Result<BTreeMap<String, Value>> {
    let token = platform.analyst().await?;
    let examples = EXAMPLES.map(|name| (name, repository().join("examples/models").join(name).join("1")));
    let mut found = BTreeMap::new();
    for (model, folder) in examples.into_iter().chain([(MODEL, given())]) {
        let golden: Value = serde_json::from_slice(&fs::read(folder.join("golden.json"))?)?;
        let body = json!({ "inputs": golden.get("inputs") });
        let path = format!("/v2/models/{model}/infer");
        let (status, answer) = platform.front.call(Method::POST, &path, Some(&token), Some(&body)).await?;
        ensure!(status.is_success(), "{model}: {status} {answer}");
        let mut kept = serde_json::Map::new();
        for member in ["model_name", "model_version", "outputs"] {
            let value = answer.get(member).with_context(|| format!("{model} answers without {member}"))?;
            kept.insert(member.to_owned(), value.clone());
        }
        found.insert(model.to_owned(), kept.into());
    }
    Ok(found)
}

/// Every chain from its first record.
async fn verify_audit(platform: &Containers) -> anyhow::Result<()> {
    let query = "SELECT writer, seq, encode(convert_to(record, 'UTF8'), 'hex'), encode(previous_hash, 'hex'), encode(hash, 'hex') \
                 FROM gateway.audit ORDER BY writer, seq";
    let mut chains: BTreeMap<String, Vec<StoredRecord>> = BTreeMap::new();
    for line in platform.psql(query).await?.lines() {
        let record = stored(line).with_context(|| format!("a record of the audit log: {line}"))?;
        chains.entry(record.writer.clone()).or_default().push(record);
    }
    ensure!(!chains.is_empty(), "the audit log is empty");
    for (writer, records) in &chains {
        let (end, _) = verify_chain((0, GENESIS), records)?;
        say(&format!("audit chain of {writer}: {end} records verify"));
    }
    let restored = chains.values().flatten().filter(|record| record.record.contains("database.restored")).count();
    ensure!(restored == 1, "the audit log has the restore {restored} times");
    Ok(())
}

fn stored(line: &str) -> anyhow::Result<StoredRecord> {
    let [writer, seq, record, previous_hash, hash] =
        line.split('|').collect::<Vec<_>>().try_into().ok().context("not five columns")?;
    let record = String::from_utf8(hex::decode(record)?)?;
    let said: Value = serde_json::from_str(&record)?;
    let at = OffsetDateTime::parse(said.get("at").and_then(Value::as_str).context("no time")?, &Rfc3339)?;
    let (previous_hash, hash) = (hex::decode(previous_hash)?, hex::decode(hash)?);
    Ok(StoredRecord { writer: writer.to_owned(), seq: seq.parse()?, at, record, previous_hash, hash })
}
