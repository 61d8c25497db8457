//! `rampart backup`: starts a run of the backup worker through the front door, waits for its end, and prints the result.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use bootstrap::api_path::ApiPath;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    connection::{Connection, text},
    output::Output,
};

/// How long requests about a run may fail one after the other: a front door may be restarting, a token being renewed.
const UNREACHABLE_MAX: Duration = Duration::from_secs(60);
const PATH: &str = "/api/backups";
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// The verification could not be carried out, which says nothing about the set.
const EXIT_NOT_VERIFIED: u8 = 2;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a set of models and database now: encrypted, signed, dated.
    Create {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
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
}

/// Exit code 0: made, or VALID. 1: INVALID, or not made. 2: not verified, which is no verdict.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create { connection, output } => {
            let run = start_and_wait(&connection, ApiPath::from(PATH)).await?;
            if text(&run, "state") == "succeeded" {
                output.fact(text(&run, "set"), &json!({ "set": text(&run, "set"), "made": true }));
                return Ok(ExitCode::SUCCESS);
            }
            let error = text(&run, "error");
            output.fact(&format!("FAILED: {error}"), &json!({ "set": null, "made": false, "error": error }));
            Ok(ExitCode::FAILURE)
        }
        Command::Verify { connection, output, set } => {
            let run = match ApiPath::from(PATH).segment(&set) {
                Ok(path) => start_and_wait(&connection, path.then("/verify")).await,
                Err(error) => Err(error),
            };
            let Judged { verdict, why, code } = judged(&set, &run);
            let line = if why.is_empty() { format!("{verdict} {set}") } else { format!("{verdict} {set}: {why}") };
            output.fact(&line, &json!({ "set": set, "verdict": verdict, "why": why }));
            Ok(ExitCode::from(code))
        }
    }
}

/// What a verification came to.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    verdict: &'static str,
    why: String,
    code: u8,
}

fn judged(set: &str, run: &anyhow::Result<Value>) -> Judged {
    let not_verified = |why: String| Judged { verdict: "NOT VERIFIED", why, code: EXIT_NOT_VERIFIED };
    match run {
        Ok(run) if text(run, "set") != set => not_verified(format!("the run is about {:?}", text(run, "set"))),
        Ok(run) => match text(run, "verdict") {
            "VALID" => Judged { verdict: "VALID", why: String::new(), code: 0 },
            "INVALID" => Judged { verdict: "INVALID", why: text(run, "reason").to_owned(), code: 1 },
            _ => not_verified(text(run, "error").to_owned()),
        },
        Err(error) => not_verified(format!("{error:#}")),
    }
}

async fn start_and_wait(connection: &Connection, path: ApiPath) -> anyhow::Result<Value> {
    let platform = connection.open("operator")?;
    let started = platform.call(Method::POST, path, None, "the run").await?;
    let id = text(&started, "id").to_owned();
    let run = ApiPath::from(PATH).segment(&id)?;
    // A run may take longer than a token lives: each call looks for the newest.
    let poll = async || platform.call(Method::GET, &run, None, "the request for the run").await;
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
        let invalid = json!({ "set": "s", "state": "succeeded", "verdict": "INVALID", "reason": "a bit" });
        let failed = json!({ "set": "s", "state": "failed", "verdict": null, "error": "no room" });
        let valid = json!({ "set": "s", "state": "succeeded", "verdict": "VALID" });
        let other = json!({ "set": "t", "state": "succeeded", "verdict": "VALID" });
        let expected = |verdict, why: &str, code| Judged { verdict, why: why.to_owned(), code };
        assert_eq!(judged("s", &Ok(valid)), expected("VALID", "", 0));
        assert_eq!(judged("s", &Ok(other)), expected("NOT VERIFIED", "the run is about \"t\"", 2));
        assert_eq!(judged("s", &Ok(invalid)), expected("INVALID", "a bit", 1));
        assert_eq!(judged("s", &Ok(failed)), expected("NOT VERIFIED", "no room", 2));
        assert_eq!(judged("s", &Err(anyhow::anyhow!("403"))), expected("NOT VERIFIED", "403", 2));
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
