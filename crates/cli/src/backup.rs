//! `rampart backup`: runs of the backup worker through the front door, begun, waited for, shown and cancelled.

mod verdict;
mod waiting;

use std::process::ExitCode;

use bootstrap::api_path::ApiPath;
use http::Method;
use serde_json::{Value, json};

use self::{
    verdict::{Judged, judged, not_verified},
    waiting::Waiting,
};
use crate::{
    connection::{Connection, Platform, list, text},
    output::{Column, Output, Table},
};

const PATH: &str = "/api/backups";
const COLUMNS: [Column; 7] = [
    Column { heading: "RUN", width: 36 },
    Column { heading: "KIND", width: 6 },
    Column { heading: "STATE", width: 9 },
    Column { heading: "SET", width: 28 },
    Column { heading: "VERDICT", width: 7 },
    Column { heading: "STARTED", width: 20 },
    Column { heading: "BY", width: 0 },
];
/// The members of a run, in the order of the columns.
const MEMBERS: [&str; 7] = ["id", "kind", "state", "set", "verdict", "started_at", "requested_by"];
const FIELDS: [Column; 2] = [Column { heading: "FIELD", width: 14 }, Column { heading: "VALUE", width: 0 }];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The last hundred runs, newest first: sets that were made, verifications, and what came of them.
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
        /// Only runs of this set.
        #[arg(long)]
        set: Option<String>,
    },
    /// One run: how far it is, or how it ended.
    Show(OneRun),
    /// Make a set of models and database now: encrypted, signed, dated.
    Create {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
        /// Wait for its verification, too, and print the verdict; then the exit codes are those of `verify`.
        #[arg(long)]
        verify: bool,
    },
    /// Decrypt a set, restore it into a scratch cluster, and only then say VALID.
    Verify {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
        /// The set, as `create` named it.
        set: String,
    },
    /// End a run that is under way; nothing of it stays.
    Cancel(OneRun),
}

#[derive(clap::Args)]
pub(crate) struct OneRun {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// The run, as `list` names it.
    run: String,
}

/// Exit code 0: made, cancelled, or VALID. 1: INVALID, not made, or not cancelled. 2: not verified, which is no verdict.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { connection, output, set } => list_runs(&connection, output, set.as_deref()).await,
        Command::Show(one) => show(&one).await,
        Command::Create { connection, output, verify: false } => create(&connection, output).await,
        Command::Create { connection, output, verify: true } => create_and_verify(&connection, output).await,
        Command::Verify { connection, output, set } => {
            let run = verify(&connection, output, &set).await;
            let judged = judged(&set, &run);
            judged.print(output, &set);
            Ok(ExitCode::from(judged.code))
        }
        Command::Cancel(one) => cancel(&one).await,
    }
}

async fn list_runs(connection: &Connection, output: Output, set: Option<&str>) -> anyhow::Result<ExitCode> {
    let platform = connection.open("viewer")?;
    let runs = runs(&platform).await?;
    let wanted = list(&runs, "runs").filter(|run| set.is_none_or(|set| text(run, "set") == set));
    let wanted: Vec<&Value> = wanted.collect();
    let table = Table::new(&COLUMNS, wanted.iter().map(|run| MEMBERS.map(|name| text(run, name).to_owned())));
    output.table(&table, &json!({ "runs": wanted }));
    Ok(ExitCode::SUCCESS)
}

async fn runs(platform: &Platform) -> anyhow::Result<Value> {
    platform.call(Method::GET, PATH, None, "the list of the runs").await
}

async fn show(one: &OneRun) -> anyhow::Result<ExitCode> {
    let platform = one.connection.open("viewer")?;
    let run = platform.call(Method::GET, ApiPath::from(PATH).segment(&one.run)?, None, "the run").await?;
    let members = run.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let table = Table::new(&FIELDS, members.map(|(name, member)| [name.clone(), value(member)]));
    one.output.table(&table, &run);
    Ok(ExitCode::SUCCESS)
}

async fn create(connection: &Connection, output: Output) -> anyhow::Result<ExitCode> {
    let platform = connection.open("operator")?;
    let run = made(&Waiting::new(&platform, output)).await?;
    if text(&run, "state") == "succeeded" {
        output.fact(text(&run, "set"), &json!({ "set": text(&run, "set"), "made": true }));
        return Ok(ExitCode::SUCCESS);
    }
    let error = text(&run, "error");
    output.fact(&format!("FAILED: {error}"), &json!({ "set": null, "made": false, "error": error }));
    Ok(ExitCode::FAILURE)
}

async fn create_and_verify(connection: &Connection, output: Output) -> anyhow::Result<ExitCode> {
    let platform = match connection.open("operator") {
        Ok(platform) => platform,
        Err(error) => return Ok(not_made(output, &format!("{error:#}"))),
    };
    let waiting = Waiting::new(&platform, output);
    let run = match made(&waiting).await {
        Ok(run) if text(&run, "state") == "succeeded" => run,
        Ok(run) => return Ok(not_made(output, text(&run, "error"))),
        Err(error) => return Ok(not_made(output, &format!("{error:#}"))),
    };
    let set = text(&run, "set");
    // The worker may be at it already: it verifies each set once it is made.
    let judged = judged(set, &waiting.verification(set, true).await);
    judged.print(output, set);
    Ok(ExitCode::from(judged.code))
}

fn not_made(output: Output, error: &str) -> ExitCode {
    let Judged { verdict, why, code } = not_verified(format!("no set was made: {error}"));
    output.fact(&format!("{verdict}: {why}"), &json!({ "set": null, "verdict": verdict, "why": why }));
    ExitCode::from(code)
}

async fn made(waiting: &Waiting<'_>) -> anyhow::Result<Value> {
    let begun = waiting.platform().call(Method::POST, PATH, None, "the run").await?;
    waiting.until_ended(text(&begun, "id")).await
}

async fn verify(connection: &Connection, output: Output, set: &str) -> anyhow::Result<Value> {
    let platform = connection.open("operator")?;
    Waiting::new(&platform, output).verification(set, false).await
}

async fn cancel(one: &OneRun) -> anyhow::Result<ExitCode> {
    let platform = one.connection.open("operator")?;
    let path = ApiPath::from(PATH).segment(&one.run)?.then("/cancel");
    platform.call(Method::POST, path, None, "the end of the run").await?;
    let run = Waiting::new(&platform, one.output).until_ended(&one.run).await?;
    let state = text(&run, "state");
    // It may have been completed in the moment in which it was cancelled.
    let is_cancelled = state == "cancelled";
    let document = json!({ "run": one.run, "cancelled": is_cancelled, "state": state });
    one.output.fact(&format!("{state} {}", one.run), &document);
    Ok(if is_cancelled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
