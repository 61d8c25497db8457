//! `rampart login`: a person's password for an access token in a file.

use std::{
    io::{BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use bootstrap::{say, say_error};
use serde_json::json;

use crate::connection::Front;

/// Options of `rampart login`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    front: Front,
    /// Where the token is written, for you alone.
    #[arg(long, env = "RAMPART_TOKEN_FILE")]
    token_file: PathBuf,
    /// Your name.
    #[arg(long)]
    user: String,
    /// A file with your password; without it, it is read from standard input.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

/// Logs in. The token is good for ten minutes.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let password = match &arguments.password_file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => {
            if std::io::stdin().is_terminal() {
                say_error("password (it will be seen as you type; --password-file avoids that):");
            }
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
            line
        }
    };
    let password = password.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "there is no password on standard input");
    let grant = json!({ "grant_type": "password", "username": arguments.user, "password": password });
    let token = arguments.front.client()?.token(&grant).await?;
    secrets::replace_file(&arguments.token_file, token.as_bytes(), 0o600, None)?;
    say(&format!("{} is logged in; the token is in {}", arguments.user, arguments.token_file.display()));
    Ok(())
}
