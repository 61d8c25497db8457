//! `rampart backup`: starts a run of the backup worker through the front door, waits for its end, and prints the result.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use bootstrap::say;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, text};

/// How long requests about a run may fail one after the other: a front door may be restarting, a token being renewed.
const UNREACHABLE_MAX: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// The verification could not be carried out, which says nothing about the set.
const EXIT_NOT_VERIFIED: u8 = 2;

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

/// Exit code 0: made, or VALID. 1: INVALID, or not made. 2: not verified, which is no verdict.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(connection) => {
            let run = start_and_wait(&connection, "/api/backups").await?;
            if text(&run, "state") == "succeeded" {
                say(text(&run, "set"));
                return Ok(ExitCode::SUCCESS);
            }
            say(&format!("FAILED: {}", text(&run, "error")));
            Ok(ExitCode::FAILURE)
        }
        Command::Verify { connection, set } => {
            let run = start_and_wait(&connection, &format!("/api/backups/{set}/verify")).await;
            let (line, code) = verdict_line(&set, &run);
            say(&line);
            Ok(ExitCode::from(code))
        }
    }
}

/// The line for a verification, and its exit code.
fn verdict_line(set: &str, run: &anyhow::Result<Value>) -> (String, u8) {
    match run {
        Ok(run) => match text(run, "verdict") {
            "VALID" => (format!("VALID {set}"), 0),
            "INVALID" => (format!("INVALID {set}: {}", text(run, "reason")), 1),
            _ => (format!("NOT VERIFIED {set}: {}", text(run, "error")), EXIT_NOT_VERIFIED),
        },
        Err(error) => (format!("NOT VERIFIED {set}: {error:#}"), EXIT_NOT_VERIFIED),
    }
}

async fn start_and_wait(connection: &Connection, path: &str) -> anyhow::Result<Value> {
    let client = connection.client()?;
    let started = connection.call(Method::POST, path, None, "the run").await?;
    let id = text(&started, "id").to_owned();
    let run = format!("/api/backups/{id}");
    let poll = async || {
        // A run may take longer than a token lives.
        let answer = client.call(Method::GET, &run, Some(&connection.token()?), None).await?;
        answer.expect_success("the request for the run")
    };
    wait(poll, POLL_PERIOD, UNREACHABLE_MAX)
        .await
        .with_context(|| format!("run {id} may still be going on, but requests for it fail"))
}

/// Polls a run until it has ended; the worker ends every run.
async fn wait(
    mut poll: impl AsyncFnMut() -> anyhow::Result<Value>,
    period: Duration,
    unreachable_max: Duration,
) -> anyhow::Result<Value> {
    let mut answered_at = Instant::now();
    loop {
        match poll().await {
            Ok(run) if text(&run, "state") != "running" => return Ok(run),
            Ok(_) => answered_at = Instant::now(),
            Err(error) if answered_at.elapsed() > unreachable_max => return Err(error),
            Err(_) => {}
        }
        sleep(period).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use serde_json::json;

    use super::*;

    /// Proves that only a verdict is called one: what could not be tried has an exit code of its own.
    #[test]
    fn failed_run_is_not_verified() {
        let invalid = json!({ "state": "succeeded", "verdict": "INVALID", "reason": "a bit" });
        let failed = json!({ "state": "failed", "verdict": null, "error": "no room" });
        let valid = json!({ "state": "succeeded", "verdict": "VALID" });
        assert_eq!(verdict_line("s", &Ok(valid)), ("VALID s".to_owned(), 0));
        assert_eq!(verdict_line("s", &Ok(invalid)), ("INVALID s: a bit".to_owned(), 1));
        assert_eq!(verdict_line("s", &Ok(failed)), ("NOT VERIFIED s: no room".to_owned(), 2));
        assert_eq!(verdict_line("s", &Err(anyhow::anyhow!("403"))), ("NOT VERIFIED s: 403".to_owned(), 2));
    }

    /// Proves that polling goes on past transient refusals, and ends when there is nothing else.
    #[tokio::test]
    async fn polling_continues_past_transient_refusals() {
        let mut polled = 0;
        let poll = async || {
            polled += 1;
            match polled {
                // Each second time the token has run out.
                ..100 if polled % 2 == 0 => bail!("401"),
                ..100 => Ok(json!({ "state": "running" })),
                _ => Ok(json!({ "state": "succeeded" })),
            }
        };
        let run = wait(poll, Duration::ZERO, UNREACHABLE_MAX).await.unwrap();
        assert_eq!(text(&run, "state"), "succeeded");
        wait(async || bail!("401"), Duration::ZERO, Duration::from_millis(10)).await.unwrap_err();
    }
}
