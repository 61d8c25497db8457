//! Waiting for a run to end, with its progress on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use bootstrap::api_path::ApiPath;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{PATH, runs};
use crate::{
    connection::{Platform, list, text},
    output::{Output, printable},
};

/// How long requests about a run may fail one after the other: a front door may be restarting, a token being renewed.
const UNREACHABLE_MAX: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// Verifications of others that are waited for before one's own.
const TURNS_MAX: usize = 8;
/// Takes a line of a terminal away.
const CLEAR_LINE: &str = "\r\u{1b}[K";
const MEBIBYTE: u64 = 1 << 20;

/// Waits for runs of a platform.
pub(super) struct Waiting<'a> {
    platform: &'a Platform,
    shows_progress: bool,
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    /// Shows progress on a terminal, unless a script reads the output.
    pub(super) fn new(platform: &'a Platform, output: Output) -> Self {
        Self { platform, shows_progress: !output.is_json() && io::stderr().is_terminal() }
    }

    pub(super) fn platform(&self) -> &Platform {
        self.platform
    }

    /// The run once it has ended.
    pub(super) async fn until_ended(&self, id: &str) -> anyhow::Result<Value> {
        let run = ApiPath::from(PATH).segment(id)?;
        // A run may take longer than a token lives: each call looks for the newest.
        let poll = async || self.platform.call(Method::GET, &run, None, "the request for the run").await;
        let ended = wait(poll, |run| self.show(run), POLL_PERIOD, UNREACHABLE_MAX).await;
        self.clear();
        ended.with_context(|| format!("run {id} may still be going on, but requests for it fail"))
    }

    /// A verification of the set that has ended. One that somebody began before is waited for, and then comes another, since the
    /// verdict must be of the set as it is from now on. `is_new`: the set was just made, so any verification of it will do.
    pub(super) async fn verification(&self, set: &str, is_new: bool) -> anyhow::Result<Value> {
        let path = ApiPath::from(PATH).segment(set)?.then("/verify");
        let mut turn = 0;
        loop {
            let conflict = match self.platform.call_unless_conflict(Method::POST, &path, "the run").await? {
                Ok(begun) => return self.until_ended(text(&begun, "id")).await,
                Err(conflict) => conflict,
            };
            let runs = runs(self.platform).await?;
            let verifications = || list(&runs, "runs").filter(|run| text(run, "kind") == "verify");
            if let Some(own) = verifications().find(|run| is_new && text(run, "set") == set) {
                return self.until_ended(text(own, "id")).await;
            }
            turn += 1;
            if turn > TURNS_MAX {
                return Err(conflict);
            }
            match verifications().find(|run| text(run, "state") == "running") {
                Some(other) => drop(self.until_ended(text(other, "id")).await?),
                // It has ended in between, or something else is in the way.
                None => sleep(POLL_PERIOD).await,
            }
        }
    }

    fn show(&self, run: &Value) {
        if self.shows_progress {
            // A terminal that is gone needs no progress.
            let _gone = write!(io::stderr(), "{CLEAR_LINE}{}", printable(&progress(run)));
        }
    }

    fn clear(&self) {
        if self.shows_progress {
            let _gone = write!(io::stderr(), "{CLEAR_LINE}");
        }
    }
}

/// How far a run is, in a line.
fn progress(run: &Value) -> String {
    let number = |name| run.get(name).and_then(Value::as_u64);
    let (done, expected) = (number("bytes_done").unwrap_or_default(), number("bytes_expected"));
    let phase = text(run, "phase").replace('_', " ");
    let of = match expected {
        Some(expected) if expected > 0 => {
            // It is an estimate, and a run that goes on is not done.
            let percent = (u128::from(done) * 100 / u128::from(expected)).min(99);
            format!(" of about {} MiB, {percent} %", mebibytes(expected))
        }
        _ => " MiB".to_owned(),
    };
    format!("{} {phase}: {}{of}", text(run, "kind"), mebibytes(done))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / u128::from(MEBIBYTE);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Polls a run until it has ended; the worker ends every run.
async fn wait(
    mut poll: impl AsyncFnMut() -> anyhow::Result<Value>,
    show: impl Fn(&Value),
    period: Duration,
    unreachable_max: Duration,
) -> anyhow::Result<Value> {
    let mut answered_at = Instant::now();
    loop {
        match poll().await {
            Ok(run) if text(&run, "state") != "running" => return Ok(run),
            Ok(run) => {
                show(&run);
                answered_at = Instant::now();
            }
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
        let run = wait(poll, |_| (), Duration::ZERO, UNREACHABLE_MAX).await.unwrap();
        assert_eq!(text(&run, "state"), "succeeded");
        wait(async || bail!("401"), |_| (), Duration::ZERO, Duration::from_millis(10)).await.unwrap_err();
    }

    #[test]
    fn progress_is_a_line() {
        let run = json!({ "kind": "create", "phase": "dump_databases", "bytes_done": 3_500_000, "bytes_expected": 7_000_000 });
        assert_eq!(progress(&run), "create dump databases: 3.3 of about 6.6 MiB, 50 %");
        let first = json!({ "kind": "create", "phase": null, "bytes_done": 0, "bytes_expected": null });
        assert_eq!(progress(&first), "create : 0.0 MiB");
        let more = json!({ "kind": "verify", "phase": "check_files", "bytes_done": 9, "bytes_expected": 3 });
        assert!(progress(&more).ends_with("99 %"), "an estimate is passed");
    }
}
