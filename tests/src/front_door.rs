//! The front door of a platform, of `rampart dev` or in containers.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    inference::{MODEL, expect_golden, expect_golden_grpc, grpc_request},
    request::{Protocol, Server, Template},
};

/// The address of the front door, and what a client needs to call it.
#[derive(Clone, Serialize, Deserialize)]
pub struct FrontDoor {
    /// Where it listens.
    pub address: SocketAddr,
    /// The CA that signed its certificate.
    pub ca_file: PathBuf,
    /// A prediction in the protocol's JSON: the first row of the golden example of [`MODEL`].
    pub example_file: PathBuf,
}

// === impl FrontDoor ===

impl FrontDoor {
    /// How to reach it.
    ///
    /// # Errors
    /// The CA file is not there.
    pub fn server(&self, protocol: Protocol) -> anyhow::Result<Server> {
        Server::front(self.address, &self.ca_file, protocol)
    }

    /// One call on a connection of its own: the status, and the body if it is JSON.
    ///
    /// # Errors
    /// No answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let template = Template::json(method, path, token, body)?;
        let answer = self.server(Protocol::Http1)?.connect().await?.call(&template).await?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
    }

    /// Exchanges a grant for an access token.
    ///
    /// # Errors
    /// The platform refused.
    pub async fn token(&self, grant: &Value) -> anyhow::Result<String> {
        let (status, body) = self.call(Method::POST, "/api/auth/token", None, Some(grant)).await?;
        ensure!(status.is_success(), "logging in: {status} {body}");
        Ok(body.get("access_token").and_then(Value::as_str).context("no access_token")?.to_owned())
    }

    /// Logs a machine account in: its access token.
    ///
    /// # Errors
    /// The platform refused.
    pub async fn login(&self, name: &str, secret: &str) -> anyhow::Result<String> {
        let grant = json!({ "grant_type": "client_credentials", "client_id": name, "client_secret": secret });
        self.token(&grant).await.with_context(|| format!("of {name}"))
    }

    /// How many serving replicas the balancer calls healthy.
    ///
    /// # Errors
    /// No answer.
    pub async fn healthy_backends(&self) -> anyhow::Result<u64> {
        let (_, status) = self.call(Method::GET, "/api/loadbalancer/status", None, None).await?;
        status.get("healthy_backends").and_then(Value::as_u64).context("no healthy_backends")
    }

    /// A prediction with one row of the forest's golden example.
    ///
    /// # Errors
    /// The example file is not there.
    pub fn prediction(&self, token: &str) -> anyhow::Result<Template> {
        Template::json(Method::POST, &format!("/v2/models/{MODEL}/infer"), Some(token), self.example()?)
    }

    /// The same by gRPC.
    ///
    /// # Errors
    /// The example file is not there.
    pub fn grpc_prediction(&self, token: &str) -> anyhow::Result<Template> {
        let message = grpc_request(MODEL, &self.example()?)?;
        Template::grpc("/inference.GRPCInferenceService/ModelInfer", Some(token), &message)
    }

    /// A prediction that is only good if it is right: its answer was compared with the golden example, and every other
    /// answer must be the same.
    ///
    /// # Errors
    /// The platform answers something else.
    pub async fn golden_prediction(&self, token: &str) -> anyhow::Result<Template> {
        let prediction = self.prediction(token)?;
        let answer = self.server(Protocol::Http1)?.connect().await?.call(&prediction).await?;
        answer.expect_good()?;
        expect_golden(&answer.body)?;
        Ok(Template { expected: Some(answer.body), ..prediction })
    }

    /// The same by gRPC.
    ///
    /// # Errors
    /// The platform answers something else.
    pub async fn golden_grpc_prediction(&self, token: &str) -> anyhow::Result<Template> {
        let prediction = self.grpc_prediction(token)?;
        let answer = self.server(Protocol::Http2)?.connect().await?.call(&prediction).await?;
        answer.expect_good()?;
        expect_golden_grpc(&answer.body)?;
        Ok(Template { expected: Some(answer.body), ..prediction })
    }

    fn example(&self) -> anyhow::Result<Vec<u8>> {
        read(&self.example_file)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
