//! `rampart status`: every replica of every pool, as the balancer sees it.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::ensure;
use bootstrap::{say_error, show};
use http::Method;
use serde_json::{Value, json};

use crate::{
    connection::{Connection, Platform, list, text},
    output::{Column, Output, Table},
};

const COLUMNS: [Column; 5] = [
    Column { heading: "POOL", width: 10 },
    Column { heading: "REPLICA", width: 24 },
    Column { heading: "STATE", width: 12 },
    Column { heading: "SINCE", width: 0 },
    Column { heading: "WHY", width: 0 },
];
/// The members of a replica, in the order of the columns.
const MEMBERS: [&str; 5] = ["pool", "name", "state", "since", "why"];
/// Begins a screen anew.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Options of `rampart status`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Ask again and again, every so many seconds, until Ctrl-C or until the reader of a pipe goes.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
}

/// Exit code 0 when every replica is healthy, by the last answer.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // Only who has a token sees since when a replica is so, and why.
    let platform = arguments.connection.open_with_any_token("viewer")?;
    let Some(seconds) = arguments.watch else {
        let document = status(&platform).await?;
        arguments.output.table(&table(&document), &document);
        return Ok(code(&document));
    };
    let mut last = ExitCode::FAILURE;
    loop {
        match status(&platform).await {
            Ok(document) => {
                last = code(&document);
                if !show_again(&document, arguments.output)? {
                    return Ok(last);
                }
            }
            // A front door that is started again answers soon.
            Err(error) => say_error(&format!("rampart: {error:#}")),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted.map(|()| last)?),
        }
    }
}

/// Prints it: in place of the last on a terminal, after an empty line elsewhere. False when the reader has gone.
fn show_again(document: &Value, output: Output) -> io::Result<bool> {
    let is_terminal = io::stdout().is_terminal();
    let mut text = output.lines(&table(document), document, is_terminal).join("\n");
    if !output.is_json() {
        text = if is_terminal { format!("{CLEAR}{text}") } else { format!("{text}\n") };
    }
    match show(&text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// What `--json` prints.
async fn status(platform: &Platform) -> anyhow::Result<Value> {
    let status = platform.call(Method::GET, "/api/loadbalancer/status", None, "the status").await?;
    let document = document(&status);
    ensure!(list(&document, "replicas").next().is_some(), "the status has no replicas in it: {status}");
    Ok(document)
}

fn document(status: &Value) -> Value {
    let mut replicas = Vec::new();
    for (pool, body) in status.get("pools").and_then(Value::as_object).into_iter().flatten() {
        for replica in list(body, "replicas") {
            let member = |name| if name == "pool" { pool.clone() } else { text(replica, name).to_owned() };
            replicas.push(BTreeMap::from(MEMBERS.map(|name| (name, member(name)))));
        }
    }
    let is_healthy = replicas.iter().all(|replica| replica.get("state").is_some_and(|state| state == "healthy"));
    json!({ "healthy": is_healthy, "replicas": replicas })
}

fn code(document: &Value) -> ExitCode {
    if document.get("healthy") == Some(&Value::Bool(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn table(document: &Value) -> Table {
    Table::new(&COLUMNS, list(document, "replicas").map(|replica| MEMBERS.map(|name| text(replica, name).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_healthy_when_each_replica_is() {
        let of = |states: &[&str]| {
            let replicas: Vec<_> = states.iter().map(|state| json!({ "name": "serving-1", "state": state })).collect();
            document(&json!({ "pools": { "serving": { "replicas": replicas } } }))["healthy"] == json!(true)
        };
        assert!(of(&["healthy", "healthy"]));
        assert!(!of(&["healthy", "ejected"]));
    }
}
