//! `rampart models`: what is served, and taking models into service and out of it.

mod add;
mod adopt;
mod call_lines;
mod check;
mod declaration;
mod folder;
mod inspect;
mod name;
mod register;
mod registered;
mod registration;
mod registry;
mod served;

use std::process::ExitCode;

use bootstrap::api_path::ApiPath;
use http::Method;
use serde_json::{Value, json};

use crate::{
    connection::{Connection, text},
    output::{Column, Output, Table},
};

const COLUMNS: [Column; 4] = [
    Column { heading: "MODEL", width: 32 },
    Column { heading: "VERSION", width: 8 },
    Column { heading: "STATE", width: 12 },
    Column { heading: "WHY", width: 0 },
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Every model version of a replica: name, version, state, and why it does not serve.
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
    },
    /// Take a model file into service on every replica of a running `rampart dev`: signature, golden example, digests, load.
    Add(add::Arguments),
    /// Take a model file into MLflow, from which every replica of a platform in containers has its models: signature, golden example, digest,
    /// version, alias. Needs the role engineer.
    Register(register::Arguments),
    /// Give a version that was logged by MLflow's own client what is missing of it, so that it serves. Needs the role engineer.
    Adopt(adopt::Arguments),
    /// Print everything that keeps a model file or folder from being served; exit code 1 if anything does. Nothing is loaded.
    Check(check::Arguments),
    /// Load a model, or load it again, on every replica. Needs the role engineer.
    Load(Model),
    /// Take a model out of service on every replica. Needs the role engineer.
    Unload(Model),
}

#[derive(clap::Args)]
pub(crate) struct Model {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// The model.
    model: String,
}

/// Runs the command.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { connection, output } => list(&connection, output).await?,
        Command::Add(arguments) => add::run(&arguments).await?,
        Command::Register(arguments) => register::run(&arguments).await?,
        Command::Adopt(arguments) => adopt::run(&arguments).await?,
        Command::Check(arguments) => return check::run(&arguments),
        Command::Load(model) => change(&model, "load", "/load", "loaded").await?,
        Command::Unload(model) => change(&model, "unload", "/unload", "unloaded").await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(connection: &Connection, output: Output) -> anyhow::Result<()> {
    let platform = connection.open("viewer")?;
    let index = platform.call(Method::POST, "/v2/repository/index", Some(&json!({})), "listing the models").await?;
    let versions: Vec<&Value> = index.as_array().into_iter().flatten().collect();
    let row = |version: &&Value| ["name", "version", "state", "reason"].map(|name| text(version, name).to_owned());
    output.table(&Table::new(&COLUMNS, versions.iter().map(row)), &json!({ "models": versions }));
    Ok(())
}

async fn change(arguments: &Model, what: &str, route: &'static str, done: &str) -> anyhow::Result<()> {
    let Model { connection, output, model } = arguments;
    let path = ApiPath::from("/v2/repository/models").segment(model)?.then(route);
    connection.open("engineer")?.call(Method::POST, path, Some(&json!({})), &format!("the {what}")).await?;
    output.fact(&format!("{model}: {done}"), &json!({ "model": model, "done": done }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_line_without_trailing_space() {
        let version = json!({ "name": "m", "version": "1", "state": "READY", "reason": "" });
        let row = ["name", "version", "state", "reason"].map(|name| text(&version, name).to_owned());
        let lines = Output::default().lines(&Table::new(&COLUMNS, [row]), &Value::Null, false);
        assert_eq!(lines, [format!("{:<32} {:<8} READY", "m", "1")]);
    }
}
