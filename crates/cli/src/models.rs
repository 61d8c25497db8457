//! `rampart models`: what is served, and taking models into service and out of it.

mod add;
mod adopt;
mod call_lines;
mod check;
mod declaration;
mod folder;
mod inspect;
mod library;
mod name;
mod register;
mod registered;
mod registry;
mod running;
mod served;

use std::process::ExitCode;

use bootstrap::say;
use http::Method;
use serde_json::{Value, json};

use crate::connection::{Connection, text};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Every model version of a replica: name, version, state, and why it does not serve.
    List(Connection),
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
    /// The model.
    model: String,
}

/// Runs the command.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(connection) => list(&connection).await?,
        Command::Add(arguments) => add::run(&arguments).await?,
        Command::Register(arguments) => register::run(&arguments).await?,
        Command::Adopt(arguments) => adopt::run(&arguments).await?,
        Command::Check(arguments) => return check::run(&arguments),
        Command::Load(model) => change(&model, "load").await?,
        Command::Unload(model) => change(&model, "unload").await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(connection: &Connection) -> anyhow::Result<()> {
    let index = connection.call(Method::POST, "/v2/repository/index", Some(&json!({})), "listing the models").await?;
    for version in index.as_array().into_iter().flatten() {
        say(&line(version));
    }
    Ok(())
}

async fn change(Model { connection, model }: &Model, what: &str) -> anyhow::Result<()> {
    let path = format!("/v2/repository/models/{model}/{what}");
    connection.call(Method::POST, &path, Some(&json!({})), &format!("the {what}")).await?;
    say(&format!("{model}: {what}ed"));
    Ok(())
}

fn line(version: &Value) -> String {
    let (name, number) = (text(version, "name"), text(version, "version"));
    format!("{name:<32} {number:<8} {:<12} {}", text(version, "state"), text(version, "reason")).trim_end().to_owned()
}
