//! The first prediction through the front door, and how to repeat it.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::layout::Layout;
use crate::{client::Client, say};

const MODEL: &str = "breast-cancer-forest";

/// Predicts with a real model over HTTPS with a bearer token, and prints the way to do it again.
pub(super) async fn first(
    layout: &Layout,
    models: &Path,
    client: &Client,
    front: &str,
    started: tokio::time::Instant,
) -> anyhow::Result<()> {
    let request = example(models)?;
    let file = layout.root().join("example-request.json");
    fs::write(&file, request.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let token = fs::read_to_string(layout.token("analyst")).context("no token for the analyst")?;
    let path = format!("/v2/models/{MODEL}/infer");
    let answer = client.call(Method::POST, &path, Some(&token), Some(&request)).await?;
    let body = answer.expect_success("the first prediction")?;
    let elapsed = started.elapsed().as_secs_f64();
    say(&format!("first prediction after {elapsed:.1} s: {}", summary(&body)?));
    say("");
    say(&format!("  front door     {front}"));
    say(&format!("  status         {front}/api/loadbalancer/status"));
    say(&format!("  API            {front}/api/openapi.json"));
    say(&format!("  SLA            {front}/api/sla/ml-services/current"));
    say(&format!(
        "  admin token    {} (renewed every 4 min; one file per role beside it)",
        layout.token("admin").display()
    ));
    say(&format!("  logs           {}", layout.root().join("logs").display()));
    say("");
    say(&format!(
        "curl --cacert {} -H @{} -d @{} {front}{path}",
        layout.ca_file().display(),
        layout.header("analyst").display(),
        file.display()
    ));
    say("");
    Ok(())
}

/// The first row of the model's golden example as a request.
fn example(models: &Path) -> anyhow::Result<Value> {
    let path = models.join(MODEL).join("2/golden.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let golden: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let input = golden.pointer("/inputs/0").context("the golden example has no input")?;
    let columns =
        input.pointer("/shape/1").and_then(Value::as_u64).context("the golden example's input has no shape")?;
    let data = input.get("data").and_then(Value::as_array).context("the golden example's input has no data")?;
    let row: Vec<_> = data.iter().take(usize::try_from(columns)?).collect();
    Ok(json!({ "inputs": [{
        "name": input.get("name"), "datatype": input.get("datatype"), "shape": [1, columns], "data": row,
    }] }))
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
    Ok(format!("{MODEL} version {version} says {}", parts.join(", ")))
}
