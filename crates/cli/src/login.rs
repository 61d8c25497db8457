//! `rampart login` and `rampart logout`: a person's password for an access token in a file, and beside it what renews the token.

use std::path::PathBuf;

use bootstrap::client::Client;
use http::Method;
use serde_json::json;

use crate::{
    connection::Front,
    output::Output,
    password,
    token_file::{TokenFile, Tokens},
};

/// Options of `rampart login`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Your name.
    #[arg(long)]
    user: String,
    /// A file with your password. Without it, it is asked for on a terminal, or read from standard input.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

/// Options of `rampart logout`.
#[derive(clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    front: Front,
    /// Where the token is, for you alone. What renews it is beside it, in a file that ends with .login.
    #[arg(long, env = "RAMPART_TOKEN_FILE", hide_env_values = true)]
    token_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Logs in. Commands renew the token while they are used, at least once an hour, for at most a day.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { place, user, password_file } = arguments;
    let client = place.front.client()?;
    let password = password::read(password_file.as_deref(), &format!("password of {user}: "))?;
    let grant = json!({ "grant_type": "password", "username": user, "password": password });
    let answer = client.call(Method::POST, "/api/auth/token", None, Some(&grant)).await?;
    let tokens = Tokens::of(&answer.expect_success("the login")?)?;
    let file = TokenFile::new(&place.token_file);
    file.log_in(&client, &user, &tokens).await?;
    let line = format!("{user} is logged in; the token is in {}", place.token_file.display());
    place.output.fact(&line, &json!({ "user": user, "token_file": place.token_file, "login_file": file.login_path() }));
    Ok(())
}

/// Ends a login and its tokens, and removes its files.
pub(crate) async fn end(place: Place) -> anyhow::Result<()> {
    let client: Client = place.front.client()?;
    let user = TokenFile::new(&place.token_file).log_out(&client).await?;
    place.output.fact(&format!("{user} is logged out"), &json!({ "user": user, "logged_out": true }));
    Ok(())
}
