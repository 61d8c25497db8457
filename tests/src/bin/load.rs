//! `rampart-load`: one closed-loop load against a platform, one of its replicas, or a peer; one JSON line of figures.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use end_to_end::{
    inference::grpc_request,
    load::{Report, closed_loop},
    platform::State,
    request::{Protocol, Server, Template},
};
use http::{HeaderValue, Method};
use identity::{Identity, IdentityConfig};
use proto::auth::v1 as auth;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// Where the load goes.
    #[arg(long, value_enum)]
    via: Via,
    /// `state.json` of the platform (not for a peer).
    #[arg(long)]
    state: Option<PathBuf>,
    /// The address of a peer without TLS.
    #[arg(long)]
    peer: Option<SocketAddr>,
    /// The model to ask.
    #[arg(long)]
    model: String,
    /// A file with the request, in the inference protocol's JSON.
    #[arg(long)]
    request: PathBuf,
    /// How many connections, each with one call under way.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long to count, in seconds.
    #[arg(long, default_value_t = 10)]
    duration_s: u64,
    /// How long to run before counting, in seconds.
    #[arg(long, default_value_t = 2)]
    warm_up_s: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    /// HTTPS and a bearer token, HTTP/1.1 and JSON.
    FrontRest,
    /// The same over gRPC.
    FrontGrpc,
    /// A replica as the balancer calls it: mTLS, HTTP/2, a passport.
    Replica,
    /// The same over gRPC.
    ReplicaGrpc,
    /// A peer's REST, without TLS.
    PeerRest,
    /// A peer's gRPC, without TLS.
    PeerGrpc,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(line) => {
            let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("rampart-load: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Value> {
    identity::install_crypto_providers()?;
    let (server, template) = target(&arguments).await?;
    let warm_up = Duration::from_secs(arguments.warm_up_s);
    let duration = Duration::from_secs(arguments.duration_s);
    let report = closed_loop(&server, &template, arguments.connections, warm_up, duration).await?;
    ensure!(report.failed == 0, "{} of the calls failed: {:?}", report.failed, report.failures);
    Ok(figures(&report))
}

fn figures(report: &Report) -> Value {
    json!({
        "requests": report.good,
        "requests_per_s": report.rate().round(),
        "p50_us": report.quantile(0.50).as_micros(),
        "p95_us": report.quantile(0.95).as_micros(),
        "p99_us": report.quantile(0.99).as_micros(),
    })
}

async fn target(arguments: &Arguments) -> anyhow::Result<(Server, Template)> {
    let body = fs::read(&arguments.request).with_context(|| format!("cannot read {}", arguments.request.display()))?;
    let rest_path = format!("/v2/models/{}/infer", arguments.model);
    let grpc = |token: Option<&str>| {
        let message = grpc_request(&arguments.model, &body)?;
        Template::grpc("/inference.GRPCInferenceService/ModelInfer", token, &message)
    };
    match arguments.via {
        Via::FrontRest | Via::FrontGrpc => {
            let state = state(arguments)?;
            let token = fs::read_to_string(state.tokens.get("analyst").context("no analyst's token")?)?;
            let port = state.front.rsplit(':').next().context("no port")?.parse::<u16>()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if arguments.via == Via::FrontGrpc {
                let server = Server::front(address, &state.ca_file, Protocol::Http2)?;
                return Ok((server, grpc(Some(token.trim()))?));
            }
            let server = Server::front(address, &state.ca_file, Protocol::Http1)?;
            Ok((server, Template::json(Method::POST, &rest_path, Some(token.trim()), body)?))
        }
        Via::Replica => replica(&state(arguments)?, Template::json(Method::POST, &rest_path, None, body)?).await,
        Via::ReplicaGrpc => replica(&state(arguments)?, grpc(None)?).await,
        Via::PeerRest => Ok((peer(arguments, Protocol::Http1)?, Template::json(Method::POST, &rest_path, None, body)?)),
        Via::PeerGrpc => Ok((peer(arguments, Protocol::Http2)?, grpc(None)?)),
    }
}

fn state(arguments: &Arguments) -> anyhow::Result<State> {
    let path = arguments.state.as_deref().context("--state is needed")?;
    Ok(serde_json::from_slice(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)?)
}

fn peer(arguments: &Arguments, protocol: Protocol) -> anyhow::Result<Server> {
    let address = arguments.peer.context("--peer is needed")?;
    Ok(Server { address, name: ServerName::try_from("localhost")?, tls: None, protocol })
}

/// As the balancer: its certificate, and a passport from the gateway.
async fn replica(state: &State, mut template: Template) -> anyhow::Result<(Server, Template)> {
    let identity = Identity::load(&IdentityConfig { directory: state.identities.join("balancer-1") })?;
    let gateway = state.listeners.get("gateway-1").context("no gateway")?.main.to_string();
    let token = fs::read_to_string(state.tokens.get("analyst").context("no analyst's token")?)?;
    let channel = transport::channel(&identity, "gateway", &[gateway]);
    let request = auth::AuthorizeRequest {
        token: token.trim().to_owned(),
        audience: "serving".into(),
        ..auth::AuthorizeRequest::default()
    };
    let answer = auth::authorization_client::AuthorizationClient::new(channel).authorize(request).await?.into_inner();
    template.headers.insert("rampart-passport", HeaderValue::try_from(answer.passport)?);
    let address = state.listeners.get("serving-1").context("no replica")?.main;
    let name = ServerName::try_from("serving.rampart.internal")?;
    let tls = Arc::clone(&identity.client_config("serving"));
    Ok((Server { address, name, tls: Some(tls), protocol: Protocol::Http2 }, template))
}
