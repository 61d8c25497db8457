//! Which platform a command calls, and with which token: what is given, or else what the state file of a `rampart dev` says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bootstrap::{
    api_path::ApiPath,
    client::{ApiResponse, Client, Proxies},
};
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::{state_file::Running, token_file::TokenFile};

const FRONT: &str = "https://localhost:8095";
/// The role that may predict and not more.
pub(crate) const PREDICTING_ROLE: &str = "analyst";

/// The front door and a token.
#[derive(clap::Args)]
pub(crate) struct Connection {
    #[command(flatten)]
    front: Front,
    /// A file with an access token: `rampart login` writes one. Without it, the state file names one for the role that is needed.
    #[arg(long, env = "RAMPART_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
}

/// The front door.
#[derive(clap::Args)]
pub(crate) struct Front {
    /// The front door. Without it, that of the state file, or https://localhost:8095.
    #[arg(long = "front", env = "RAMPART_FRONT", hide_env_values = true)]
    address: Option<String>,
    /// The CA that signed its certificate, PEM. Without it, that of the state file.
    #[arg(long, env = "RAMPART_CA_FILE", hide_env_values = true)]
    ca_file: Option<PathBuf>,
    /// The state file of a running `rampart dev`.
    #[arg(long, env = "RAMPART_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// Call through the proxy that HTTPS_PROXY, ALL_PROXY and NO_PROXY name. Without this they are ignored.
    #[arg(long)]
    proxy_from_env: bool,
}

/// A platform that is called with a token, or without.
pub(crate) struct Platform {
    client: Client,
    ca_file: PathBuf,
    proxies: Proxies,
    token_file: Option<TokenFile>,
    /// For what is printed to be run by others: of the state file's tokens the one that may predict and not more.
    predicting: Option<PathBuf>,
}

// === impl Front ===

impl Front {
    /// A client without a token.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        self.client_of(if self.is_complete() { None } else { self.running()? }.as_ref())
    }

    fn is_complete(&self) -> bool {
        self.address.is_some() && self.ca_file.is_some()
    }

    fn client_of(&self, running: Option<&Running>) -> anyhow::Result<Client> {
        Client::new(self.address_of(running), &self.ca_file_of(running)?, self.proxies())
    }

    fn address_of<'a>(&'a self, running: Option<&'a Running>) -> &'a str {
        self.address.as_deref().or(running.map(|running| &*running.front)).unwrap_or(FRONT)
    }

    fn ca_file_of(&self, running: Option<&Running>) -> anyhow::Result<PathBuf> {
        let ca_file = self.ca_file.as_deref().or(running.map(|running| &*running.ca_file));
        let ca_file = ca_file.context(
            "by which CA is the platform known? Give --ca-file (RAMPART_CA_FILE), or --state (RAMPART_STATE) of a `rampart dev`",
        );
        ca_file.map(Path::to_owned)
    }

    fn proxies(&self) -> Proxies {
        if self.proxy_from_env { Proxies::OfEnvironment } else { Proxies::Never }
    }

    fn running(&self) -> anyhow::Result<Option<Running>> {
        self.state.as_deref().map(Running::read).transpose()
    }
}

// === impl Connection ===

impl Connection {
    /// The platform, with a token; that of `role` if the state file has to give one.
    pub(crate) fn open(&self, role: &str) -> anyhow::Result<Platform> {
        let platform = self.open_with_any_token(role)?;
        ensure!(
            platform.token_file.is_some(),
            "with which token? Give --token-file (RAMPART_TOKEN_FILE; `rampart login` writes one), or --state (RAMPART_STATE) of a `rampart dev`, \
             whose tokens are for its own front door alone"
        );
        Ok(platform)
    }

    /// The same for what needs no token, and shows more with one.
    pub(crate) fn open_with_any_token(&self, role: &str) -> anyhow::Result<Platform> {
        let is_complete = self.token_file.is_some() && self.front.is_complete();
        let running = if is_complete { None } else { self.front.running()? };
        let client = self.front.client_of(running.as_ref())?;
        let (ca_file, proxies) = (self.front.ca_file_of(running.as_ref())?, self.front.proxies());
        if let Some(path) = &self.token_file {
            return Ok(Platform { client, ca_file, proxies, token_file: Some(TokenFile::new(path)), predicting: None });
        }
        // Tokens are for the platform that issued them, and shown to no other.
        let own = running.filter(|running| running.front == client.front());
        let predicting = own.as_ref().and_then(|running| running.token_file(PREDICTING_ROLE).ok().cloned());
        let token_file = own.map(|running| running.token_file(role).map(|path| TokenFile::new(path))).transpose()?;
        Ok(Platform { client, ca_file, proxies, token_file, predicting })
    }
}

// === impl Platform ===

impl Platform {
    /// The front door's URL.
    pub(crate) fn front(&self) -> &str {
        self.client.front()
    }

    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    pub(crate) fn proxies(&self) -> Proxies {
        self.proxies
    }

    /// The file with the token that a call of a model is printed with: the one that was given, or of a state file's the one that may predict
    /// and not more.
    pub(crate) fn predicting_token_file(&self) -> Option<&Path> {
        self.predicting.as_deref().or_else(|| self.token_file.as_ref().map(TokenFile::path))
    }

    /// The token for a call by other means; renewed first if its end is near. None if it is called without.
    pub(crate) async fn token(&self) -> anyhow::Result<Option<String>> {
        match &self.token_file {
            Some(file) => file.token(&self.client).await.map(Some),
            None => Ok(None),
        }
    }

    /// One call; `what` names it in the message when it is refused.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: impl Into<ApiPath>,
        body: Option<&Value>,
        what: &str,
    ) -> anyhow::Result<Value> {
        judged(self.send(method, path, body, None).await?, what)
    }

    /// The same for what the state of the platform may be in the way of (409): the inner error is what the platform says of it.
    pub(crate) async fn call_unless_conflict(
        &self,
        method: Method,
        path: impl Into<ApiPath>,
        what: &str,
    ) -> anyhow::Result<anyhow::Result<Value>> {
        let answer = self.send(method, path, None, None).await?;
        let is_conflict = answer.status == StatusCode::CONFLICT;
        match judged(answer, what) {
            Err(conflict) if is_conflict => Ok(Err(conflict)),
            other => other.map(Ok),
        }
    }

    /// One call, for a change of the state with this tag or of any.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: impl Into<ApiPath>,
        body: Option<&Value>,
        etag: Option<&HeaderValue>,
    ) -> anyhow::Result<ApiResponse> {
        let (client, path) = (&self.client, path.into());
        let Some(file) = &self.token_file else { return client.call_if_match(method, path, None, body, etag).await };
        // Read for each call: what runs longer than a token lives goes on with the next one.
        let token = file.token(client).await?;
        let answer = client.call_if_match(method.clone(), &path, Some(&token), body, etag).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // Nothing was done. The token may have been revoked, or this machine's clock be wrong.
        match file.other_than(client, &token).await? {
            Some(token) => client.call_if_match(method, path, Some(&token), body, etag).await,
            None => Ok(answer),
        }
    }
}

fn judged(answer: ApiResponse, what: &str) -> anyhow::Result<Value> {
    let is_unknown = answer.status == StatusCode::UNAUTHORIZED;
    let body = answer.expect_success(what);
    if is_unknown { body.context("the token is not good, or no longer: `rampart login` gets another") } else { body }
}

/// The text of a member, or nothing.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The members of a list, or none.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed is copied by others: it names the token that was given, or of a state file's tokens the weakest that will do.
    #[test]
    fn calls_are_printed_with_a_token_that_may_predict_and_not_more() {
        let folder = tempfile::tempdir().unwrap();
        let (state, ca_file) = (folder.path().join("state.json"), folder.path().join("ca.pem"));
        identity::install_crypto_providers().unwrap();
        std::fs::write(&ca_file, testkit::ca::Ca::new().pem()).unwrap();
        let running = serde_json::json!({
            "front": "https://localhost:1", "ca_file": ca_file, "data": folder.path(), "models": folder.path(),
            "tokens": { "engineer": "/tokens/engineer", "analyst": "/tokens/analyst" },
            "onnxruntime": { "library": "/library", "sha256": "00" },
        });
        std::fs::write(&state, running.to_string()).unwrap();
        let printed = |token_file: Option<&str>| {
            let front = Front { address: None, ca_file: None, state: Some(state.clone()), proxy_from_env: false };
            let connection = Connection { front, token_file: token_file.map(PathBuf::from) };
            connection.open("engineer").unwrap().predicting_token_file().unwrap().to_owned()
        };
        assert_eq!(printed(None), Path::new("/tokens/analyst"));
        assert_eq!(printed(Some("/own")), Path::new("/own"));
    }
}
