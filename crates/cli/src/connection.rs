//! Which platform a command calls, and with which token.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bootstrap::client::Client;
use http::Method;
use serde_json::Value;

/// The front door and a token.
#[derive(clap::Args)]
pub(crate) struct Connection {
    #[command(flatten)]
    front: Front,
    /// A file with an access token: `rampart login` writes one.
    #[arg(long, env = "RAMPART_TOKEN_FILE")]
    token_file: PathBuf,
}

/// The front door.
#[derive(clap::Args)]
pub(crate) struct Front {
    /// The front door.
    #[arg(long = "front", env = "RAMPART_FRONT", default_value = "https://localhost:8095")]
    address: String,
    /// The CA that signed its certificate, PEM.
    #[arg(long, env = "RAMPART_CA_FILE")]
    ca_file: PathBuf,
}

// === impl Front ===

impl Front {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.address, &self.ca_file)
    }

    /// Its URL.
    pub(crate) fn address(&self) -> &str {
        self.address.trim_end_matches('/')
    }

    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }
}

// === impl Connection ===

impl Connection {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        self.front.client()
    }

    pub(crate) fn front(&self) -> &Front {
        &self.front
    }

    pub(crate) fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Read for each call: a token that was renewed is another file.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("cannot read {}", self.token_file.display()))?;
        Ok(token.trim().to_owned())
    }

    /// One call; `what` names it in the message when it is refused.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        what: &str,
    ) -> anyhow::Result<Value> {
        self.client()?.call(method, path, Some(&self.token()?), body).await?.expect_success(what)
    }
}

/// The text of a member, or nothing.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The members of a list, or none.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}
