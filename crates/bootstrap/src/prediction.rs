//! The first prediction through the front door, and how to repeat it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Value, json};

use crate::{access_folder::AccessFolder, client::Client, readiness::wait_for_model, say};

/// A model may have been registered just now: replicas poll every few seconds, and prove it before it serves.
const MODEL_TIMEOUT: Duration = Duration::from_secs(120);
/// Used if it is there; otherwise the first model that has a golden example.
const PREFERRED_MODEL: &str = "breast-cancer-forest";

/// Predicts with a real model over HTTPS with a bearer token, and prints the way to do it again.
pub async fn first(
    folder: &AccessFolder,
    models: &Path,
    client: &Client,
    front: &str,
    ca_file: &Path,
    started: tokio::time::Instant,
    notes: &[(&str, String)],
) -> anyhow::Result<()> {
    let Some(golden) = golden(models) else {
        say(&format!("no model in {} has a golden.json: no prediction is made", models.display()));
        return Ok(());
    };
    let (model, request) = example(&golden)?;
    let file = folder.root().join("example-request.json");
    fs::write(&file, request.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let token = fs::read_to_string(folder.token("analyst")).context("no token for the analyst")?;
    wait_for_model(client, &model, &token, MODEL_TIMEOUT).await?;
    let path = format!("/v2/models/{model}/infer");
    let answer = client.call(Method::POST, &path, Some(&token), Some(&request)).await?;
    let body = answer.expect_success("the first prediction")?;
    let elapsed = started.elapsed().as_secs_f64();
    say(&format!("first prediction after {elapsed:.1} s: {model} {}", summary(&body)?));
    say("");
    say(&format!("  front door     {front}"));
    say(&format!("  status         {front}/api/loadbalancer/status"));
    say(&format!("  API            {front}/api/openapi.json"));
    say(&format!("  SLA            {front}/api/sla/ml-services/current"));
    for (what, note) in notes {
        say(&format!("  {what:<14} {note}"));
    }
    say("");
    say(&format!(
        "curl --cacert {} -H @{} -d @{} {front}{path}",
        ca_file.display(),
        folder.header("analyst").display(),
        file.display()
    ));
    say("");
    Ok(())
}

/// `<models>/<model>/<version>/golden.json`, of the preferred model if there is one.
fn golden(models: &Path) -> Option<PathBuf> {
    let of_model =
        |model: &Path| children(model).into_iter().rev().map(|it| it.join("golden.json")).find(|it| it.is_file());
    let preferred = of_model(&models.join(PREFERRED_MODEL));
    preferred.or_else(|| children(models).iter().find_map(|model| of_model(model)))
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The model's name, and the first row of its golden example as a request.
fn example(path: &Path) -> anyhow::Result<(String, Value)> {
    let model = path.ancestors().nth(2).and_then(Path::file_name).context("the golden example lies in no model")?;
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let golden: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let input = golden.pointer("/inputs/0").context("the golden example has no input")?;
    let shape: Vec<u64> = serde_json::from_value(input.get("shape").cloned().unwrap_or_default())
        .context("the golden example's input has no shape")?;
    let dimensions = shape.get(1..).unwrap_or_default();
    let data = input.get("data").and_then(Value::as_array).context("the golden example's input has no data")?;
    let row: Vec<_> = data.iter().take(usize::try_from(dimensions.iter().product::<u64>())?).collect();
    let shape: Vec<u64> = [1].iter().chain(dimensions).copied().collect();
    let request = json!({ "inputs": [{
        "name": input.get("name"), "datatype": input.get("datatype"), "shape": shape, "data": row,
    }] });
    Ok((model.to_string_lossy().into_owned(), request))
}

fn summary(body: &Value) -> anyhow::Result<String> {
    let outputs = body.get("outputs").and_then(Value::as_array).context("the answer has no outputs")?;
    let mut parts = Vec::new();
    for output in outputs {
        let name = output.get("name").and_then(Value::as_str).unwrap_or("?");
        parts.push(format!("{name} {}", output.get("data").unwrap_or(&Value::Null)));
    }
    if parts.is_empty() {
        bail!("the answer's outputs are empty");
    }
    let version = body.get("model_version").and_then(Value::as_str).unwrap_or("?");
    Ok(format!("version {version} says {}", parts.join(", ")))
}
