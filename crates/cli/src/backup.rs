//! `rampart backup`: asks the backup worker through the front door, waits, and says what came of it.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use bootstrap::say;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, text};

/// A run of which nothing is heard for so long is given up. Until then it is asked after: a front door may be starting
/// again, a token being renewed.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// It could not be tried, which says nothing about the set.
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
            let (line, code) = judge(&set, &run);
            say(&line);
            Ok(ExitCode::from(code))
        }
    }
}

/// What is said of a verification, and the exit code.
fn judge(set: &str, run: &anyhow::Result<Value>) -> (String, u8) {
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
    let started = connection.ask(Method::POST, path, None, "the run").await?;
    let id = text(&started, "id").to_owned();
    let run = format!("/api/backups/{id}");
    let ask = async || {
        // A run may take longer than a token lives.
        let answer = client.call(Method::GET, &run, Some(&connection.token()?), None).await?;
        answer.expect_success("asking after the run")
    };
    wait(ask, POLL_PERIOD, SILENCE_MAX)
        .await
        .with_context(|| format!("run {id} may go on, but nothing is heard of it any more"))
}

/// Asks after a run until it has ended; the worker sees to it that it does.
async fn wait(
    mut ask: impl AsyncFnMut() -> anyhow::Result<Value>,
    period: Duration,
    silence_max: Duration,
) -> anyhow::Result<Value> {
    let mut heard_at = Instant::now();
    loop {
        match ask().await {
            Ok(run) if text(&run, "state") != "running" => return Ok(run),
            Ok(_) => heard_at = Instant::now(),
            Err(error) if heard_at.elapsed() > silence_max => return Err(error),
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
        assert_eq!(judge("s", &Ok(valid)), ("VALID s".to_owned(), 0));
        assert_eq!(judge("s", &Ok(invalid)), ("INVALID s: a bit".to_owned(), 1));
        assert_eq!(judge("s", &Ok(failed)), ("NOT VERIFIED s: no room".to_owned(), 2));
        assert_eq!(judge("s", &Err(anyhow::anyhow!("403"))), ("NOT VERIFIED s: 403".to_owned(), 2));
    }

    /// Proves that a run is followed past refusals that pass, and given up when nothing else comes.
    #[tokio::test]
    async fn run_is_followed_past_refusals_that_pass() {
        let mut asked = 0;
        let ask = async || {
            asked += 1;
            match asked {
                // Each second time the token has run out.
                ..100 if asked % 2 == 0 => bail!("401"),
                ..100 => Ok(json!({ "state": "running" })),
                _ => Ok(json!({ "state": "succeeded" })),
            }
        };
        let run = wait(ask, Duration::ZERO, SILENCE_MAX).await.unwrap();
        assert_eq!(text(&run, "state"), "succeeded");
        wait(async || bail!("401"), Duration::ZERO, Duration::from_millis(10)).await.unwrap_err();
    }
}
