//! `rampart probe`: whether the service in this container is ready, asked on its admin port with its own certificate.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use bootstrap::say;
use reqwest::{Certificate, Identity};

const TIMEOUT: Duration = Duration::from_secs(2);

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
    let read = |name: &str| {
        let path = arguments.identity.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let own = [read("certificate.pem")?, read("key.pem")?].concat();
    let name = identity::dns_name(&arguments.service);
    let client = reqwest::Client::builder()
        .tls_certs_only([Certificate::from_pem(&read("ca.pem")?).context("ca.pem is no certificate")?])
        .identity(Identity::from_pem(&own).context("certificate.pem and key.pem are no pair")?)
        .resolve(&name, arguments.address)
        .https_only(true)
        .timeout(TIMEOUT)
        .build()
        .context("cannot make an HTTPS client")?;
    let url = format!("https://{name}:{}/ready", arguments.address.port());
    let answer = client.get(&url).send().await.with_context(|| format!("no answer from {url}"))?;
    let is_ready = answer.status().is_success();
    say(answer.text().await.unwrap_or_default().trim());
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
