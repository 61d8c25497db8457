//! `rampart-attack`: attackers in a process of their own, so that a test can run them in a container of their own.
//!
//! Standard input begins with one line, an [`attackers::Target`] as JSON; they go on for as long as it stays open. Ends with 1, and says
//! so, if the platform answered as if a fault were its own.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use end_to_end::attackers::{self, Target};
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    identity::install_crypto_providers()?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let target = lines.next_line().await?.context("whom to attack is to be said on standard input")?;
    let target: Target = serde_json::from_str(&target).context("whom to attack")?;
    let mut attackers = attackers::attack(&target);
    say("attacking");
    while lines.next_line().await?.is_some() {}
    let Some(fault) = attackers::fault(&mut attackers) else { return Ok(ExitCode::SUCCESS) };
    say(&format!("{fault:#}"));
    Ok(ExitCode::FAILURE)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
