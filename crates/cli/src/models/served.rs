//! Whether a version that MLflow has is served, and how it is called then.

use std::{path::Path, time::Duration};

use anyhow::{bail, ensure};
use bootstrap::{api_path::ApiPath, say};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    call_lines::{self, Callee},
    folder::CHAMPION,
    inspect::Inspected,
};
use crate::connection::{Platform, list, text};

/// For the replicas to fetch a large model and prove it.
const PATIENCE: Duration = Duration::from_secs(300);
const INTERVAL: Duration = Duration::from_secs(2);

/// Waits until a replica says that the version serves, or why it does not. A load has the registry asked at once.
pub(crate) async fn wait(platform: &Platform, name: &str, version: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let load = ApiPath::from("/v2/repository/models").segment(name)?.then("/load");
    // Other versions of the model may be refused, which is not for this command to tell.
    let mut loaded = platform.call(Method::POST, load, Some(&json!({})), &format!("loading {name}")).await.map(drop);
    loop {
        let index = platform.call(Method::POST, "/v2/repository/index", Some(&json!({})), "listing the models").await;
        let index = json!({ "models": index? });
        let number = version.to_string();
        let is_it = |row: &&Value| text(row, "name") == name && text(row, "version") == number;
        match list(&index, "models").find(is_it).map(|row| (text(row, "state"), text(row, "reason"))) {
            Some(("READY", _)) => return Ok(()),
            Some(("UNAVAILABLE", reason)) => {
                bail!("{name}: version {version} is in MLflow, and is not served: {reason}")
            }
            // It may be another replica's answer, which has not looked yet.
            _ => std::mem::replace(&mut loaded, Ok(()))?,
        }
        ensure!(
            Instant::now() < deadline,
            "{name}: version {version} is in MLflow, and no replica has it after {} s: `rampart status` says whether MLflow is asked",
            PATIENCE.as_secs()
        );
        sleep(INTERVAL).await;
    }
}

/// Prints how the version is loaded and called.
pub(crate) fn say_calls(
    platform: &Platform,
    name: &str,
    version: u64,
    is_champion: bool,
    inspected: &Inspected,
) -> anyhow::Result<()> {
    if !is_champion {
        say(&format!("a call without a version means the {CHAMPION} as before, and not version {version}"));
    }
    if let features @ [_, ..] = &*inspected.features() {
        say(&format!("its features, in this order: {}", features.join(", ")));
    }
    let token_file = platform.token_file().unwrap_or(Path::new("TOKEN_FILE"));
    let callee = Callee { front: platform.front(), ca_file: platform.ca_file(), token_file, folder: None };
    for line in call_lines::of(&callee, name, version, inspected)? {
        say(&line);
    }
    say("");
    say("# in MLflow:");
    say(&format!("# mlflow.onnx.load_model(\"models:/{name}/{version}\")"));
    Ok(())
}
