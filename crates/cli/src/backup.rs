//! `rampart backup`: asks the backup worker through the front door, waits, and says what came of it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{client::Client, say};

const RUN_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const POLL_PERIOD: Duration = Duration::from_millis(250);

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a set of models and database now: encrypted, signed, dated.
    Create(Connection),
    /// Decrypt a set, restore it into a scratch cluster, and only then say VALID.
    Verify {
        #[command(flatten)]
        connection: Connection,
        /// The set, as `create` named it.
        set: String,
    },
}

/// Which platform, and as whom.
#[derive(clap::Args)]
pub(crate) struct Connection {
    /// The front door.
    #[arg(long, env = "RAMPART_FRONT", default_value = "https://localhost:8095")]
    front: String,
    /// The CA that signed its certificate, PEM.
    #[arg(long, env = "RAMPART_CA_FILE")]
    ca_file: PathBuf,
    /// A file with an access token; the operator's right is needed.
    #[arg(long, env = "RAMPART_TOKEN_FILE")]
    token_file: PathBuf,
}

/// Exit code 0: made, or VALID. 1: INVALID or failed.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(connection) => {
            let run = connection.start_and_wait("/api/backups").await?;
            if text(&run, "state") == "succeeded" {
                say(text(&run, "set"));
                return Ok(ExitCode::SUCCESS);
            }
            say(&format!("FAILED: {}", text(&run, "error")));
            Ok(ExitCode::FAILURE)
        }
        Command::Verify { connection, set } => {
            let run = connection.start_and_wait(&format!("/api/backups/{set}/verify")).await?;
            if text(&run, "verdict") == "VALID" {
                say(&format!("VALID {set}"));
                return Ok(ExitCode::SUCCESS);
            }
            let reason = [text(&run, "reason"), text(&run, "error")].join(" ");
            say(&format!("INVALID {set}: {}", reason.trim()));
            Ok(ExitCode::FAILURE)
        }
    }
}

// === impl Connection ===

impl Connection {
    async fn start_and_wait(&self, path: &str) -> anyhow::Result<Value> {
        let client = Client::new(&self.front, &self.ca_file)?;
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("cannot read {}", self.token_file.display()))?;
        let token = token.trim();
        let started = client.call(Method::POST, path, Some(token), None).await?.expect_success("the run")?;
        let id = text(&started, "id").to_owned();
        let deadline = Instant::now() + RUN_TIMEOUT;
        loop {
            let answer = client.call(Method::GET, &format!("/api/backups/{id}"), Some(token), None).await?;
            let run = answer.expect_success("asking after the run")?;
            if text(&run, "state") != "running" {
                return Ok(run);
            }
            anyhow::ensure!(Instant::now() < deadline, "run {id} goes on after {} s", RUN_TIMEOUT.as_secs());
            sleep(POLL_PERIOD).await;
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
