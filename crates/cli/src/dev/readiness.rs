//! Whether everything is ready, in the balancer's own words.

use std::time::Duration;

use anyhow::bail;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::Client;

const POLL_PERIOD: Duration = Duration::from_millis(100);

/// Waits until the balancer says that every replica of every pool is healthy.
pub(crate) async fn wait(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("the front door did not answer");
    while Instant::now() < deadline {
        match client.call(Method::GET, "/api/loadbalancer/status", None, None).await {
            Ok(answer) => match waiting_for(&answer.body) {
                None => return Ok(()),
                Some(missing) => last = missing,
            },
            Err(error) => last = format!("{error:#}"),
        }
        sleep(POLL_PERIOD).await;
    }
    bail!("not ready after {} s: {last}; look at the newest lines of the logs", limit.as_secs())
}

/// What is not healthy yet, in the balancer's own words.
fn waiting_for(status: &Value) -> Option<String> {
    let pools = status.get("pools").and_then(Value::as_object)?;
    let mut missing = Vec::new();
    for (pool, body) in pools {
        let replicas = body.get("replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let unhealthy =
            replicas.iter().filter(|replica| replica.get("state").and_then(Value::as_str) != Some("healthy"));
        missing.extend(unhealthy.map(|replica| format!("{pool}: {replica}")));
    }
    if missing.is_empty() { None } else { Some(missing.join("; ")) }
}
