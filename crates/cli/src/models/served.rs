//! Whether a version that MLflow has is served, and how it is called then.

use std::{path::Path, time::Duration};

use anyhow::{anyhow, bail, ensure};
use bootstrap::{api_path::ApiPath, say};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    call_lines::{self, Callee},
    folder::CHAMPION,
    inspect::Inspected,
};
use crate::connection::{Platform, text};

/// For the replicas to fetch a large model and prove it.
const PATIENCE: Duration = Duration::from_secs(300);
const INTERVAL: Duration = Duration::from_secs(2);
/// Within it every replica has looked into MLflow again: what one says before may be of the time before.
const SETTLED: Duration = Duration::from_secs(20);
/// Each answer is of another replica.
const READY_IN_A_ROW: u32 = 4;

/// What one answer says of the version.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    Refused(String),
    Unknown,
}

/// Waits until the replicas say that the version serves, or why it does not. A load has one of them look into MLflow at once.
pub(crate) async fn wait(platform: &Platform, name: &str, version: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let load = ApiPath::from("/v2/repository/models").segment(name)?.then("/load");
    let empty = json!({});
    // Other versions of the model may be refused, which is not for this command to tell.
    let loaded = platform.call(Method::POST, load, Some(&empty), &format!("loading {name}")).await;
    let mut refused_load = loaded.err();
    let mut ready = 0;
    while ready < READY_IN_A_ROW {
        let index = platform.call(Method::POST, "/v2/repository/index", Some(&empty), "listing the models").await?;
        let is_settled = started.elapsed() >= SETTLED;
        match verdict(&index, name, version) {
            Verdict::Ready => ready += 1,
            Verdict::Refused(reason) if is_settled => {
                bail!("{name}: version {version} is in MLflow, and is not served: {reason}")
            }
            Verdict::Unknown if is_settled && refused_load.is_some() => {
                return Err(refused_load.take().unwrap_or_else(|| anyhow!("{name} is not served")));
            }
            Verdict::Refused(_) | Verdict::Unknown => ready = 0,
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{name}: version {version} is in MLflow, and no replica has it after {} s: `rampart models list` says more",
            PATIENCE.as_secs()
        );
        if ready < READY_IN_A_ROW {
            sleep(INTERVAL).await;
        }
    }
    Ok(())
}

fn verdict(index: &Value, name: &str, version: u64) -> Verdict {
    let number = version.to_string();
    let is_it = |row: &&Value| text(row, "name") == name && text(row, "version") == number;
    match index.as_array().into_iter().flatten().find(is_it) {
        Some(row) if text(row, "state") == "READY" => Verdict::Ready,
        Some(row) if text(row, "state") == "UNAVAILABLE" => Verdict::Refused(text(row, "reason").to_owned()),
        _ => Verdict::Unknown,
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
    let token_file = platform.predicting_token_file().unwrap_or(Path::new("TOKEN_FILE"));
    let callee = Callee { front: platform.front(), ca_file: platform.ca_file(), token_file, folder: None };
    for line in call_lines::of(&callee, name, version, inspected)? {
        say(&line);
    }
    say("");
    say("# in MLflow:");
    say(&format!("# mlflow.onnx.load_model(\"models:/{name}/{version}\")"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_row_of_the_version_counts() {
        let row =
            |version: &str, state: &str| json!({ "name": "m", "version": version, "state": state, "reason": "no tag" });
        let index = json!([row("1", "UNAVAILABLE"), row("2", "READY"), row("3", "LOADING")]);
        assert_eq!(verdict(&index, "m", 1), Verdict::Refused("no tag".to_owned()));
        assert_eq!(verdict(&index, "m", 2), Verdict::Ready);
        for unknown in [3, 4] {
            assert_eq!(verdict(&index, "m", unknown), Verdict::Unknown);
        }
        assert_eq!(verdict(&index, "n", 2), Verdict::Unknown);
        assert_eq!(verdict(&json!({}), "m", 2), Verdict::Unknown);
    }
}
