//! Waits until every replica is healthy, by the balancer's status.

use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{api_path::ApiPath, client::Client};

const POLL_PERIOD: Duration = Duration::from_millis(100);
const MODEL_READY_IN_A_ROW: u32 = 20;

/// Waits until the balancer says that every replica of every pool is healthy.
pub async fn wait(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("the front door did not answer");
    while Instant::now() < deadline {
        match client.call(Method::GET, "/api/loadbalancer/status", None, None).await {
            Ok(answer) if answer.status.is_success() => match unhealthy_replicas(&answer.body) {
                None => return Ok(()),
                Some(missing) => last = missing,
            },
            // In containers the second edge answers in place of balancers that the front does not reach.
            Ok(answer) => last = format!("no balancer shows its status: {} {}", answer.status, answer.body),
            Err(error) => last = format!("{error:#}"),
        }
        sleep(POLL_PERIOD).await;
    }
    bail!("not ready after {} s: {last}; look at the newest lines of the logs", limit.as_secs())
}

/// Waits until every replica has the model. Which one answers is the balancer's choice, so the question is repeated: the chance
/// that a replica without the model is never chosen is one in thousands.
pub(crate) async fn wait_for_model(client: &Client, model: &str, token: &str, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let path = ApiPath::from("/v2/models").segment(model)?.then("/ready");
    let mut in_a_row = 0;
    while in_a_row < MODEL_READY_IN_A_ROW {
        let answer = client.call(Method::GET, &path, Some(token), None).await?;
        if answer.status.is_success() {
            in_a_row += 1;
            continue;
        }
        in_a_row = 0;
        if Instant::now() >= deadline {
            bail!("not every replica has the model {model} after {} s; see the logs of ml-serving", limit.as_secs());
        }
        sleep(POLL_PERIOD).await;
    }
    Ok(())
}

/// The replicas that are not healthy yet, as the balancer describes them.
fn unhealthy_replicas(status: &Value) -> Option<String> {
    let Some(pools) = status.get("pools").and_then(Value::as_object) else {
        return Some(format!("the status has no pools: {status}"));
    };
    let mut missing = Vec::new();
    for (pool, body) in pools {
        let replicas = body.get("replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let unhealthy =
            replicas.iter().filter(|replica| replica.get("state").and_then(Value::as_str) != Some("healthy"));
        missing.extend(unhealthy.map(|replica| format!("{pool}: {replica}")));
    }
    if missing.is_empty() { None } else { Some(missing.join("; ")) }
}
