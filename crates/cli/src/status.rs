//! `rampart status`: every replica of every pool, as the balancer sees it.

use std::process::ExitCode;

use bootstrap::say;
use http::Method;
use serde_json::Value;

use crate::connection::{Connection, list, text};

/// Exit code 0 when every replica is healthy.
pub(crate) async fn run(connection: Connection) -> anyhow::Result<ExitCode> {
    let status = connection.call(Method::GET, "/api/loadbalancer/status", None, "the status").await?;
    let mut is_all_healthy = true;
    for (pool, body) in status.get("pools").and_then(Value::as_object).into_iter().flatten() {
        for replica in list(body, "replicas") {
            is_all_healthy &= text(replica, "state") == "healthy";
            say(&line(pool, replica));
        }
    }
    Ok(if is_all_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(pool: &str, replica: &Value) -> String {
    let (name, state) = (text(replica, "name"), text(replica, "state"));
    format!("{pool:<10} {name:<24} {state:<12} {} {}", text(replica, "since"), text(replica, "why"))
        .trim_end()
        .to_owned()
}
