//! `rampart probe`: whether the service in this container is ready, asked on its admin port with its own certificate.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use bootstrap::say;
use https_client::{Bounds, HttpsClient, Timeouts};
use identity::{Identity, IdentityConfig};

const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(2), body_bytes_max: 64 << 10 };

/// Options of `rampart probe`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service, as its certificate calls it.
    service: String,
    /// The folder with certificate.pem, key.pem and ca.pem.
    #[arg(long, default_value = "/run")]
    identity: PathBuf,
    /// Its admin listener.
    #[arg(long, default_value = "127.0.0.1:9464")]
    address: SocketAddr,
}

/// Exit code 0 when it is ready; else 1, with what it waits for.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let identity = Identity::load(&IdentityConfig { directory: arguments.identity })?;
    let tls = Arc::unwrap_or_clone(identity.client_config(&arguments.service));
    let client = HttpsClient::with_tls(tls, Timeouts { connect: BOUNDS.timeout, silence: BOUNDS.timeout })?;
    let url = format!("https://{}/ready", arguments.address);
    let request = http::Request::get(&url).body(Vec::new())?;
    let answer = client.send(request, BOUNDS).await.with_context(|| format!("no answer from {url}"))?;
    let is_ready = answer.status().is_success();
    say(String::from_utf8_lossy(&answer.into_body().collect().await.unwrap_or_default()).trim());
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
