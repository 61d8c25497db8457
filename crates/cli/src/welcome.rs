//! `rampart welcome`: accounts and a first prediction after the first start of the containers. May be run again: it finds what
//! it made.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use bootstrap::{
    access_folder::AccessFolder,
    accounts::Accounts,
    client::{Client, Proxies},
    prediction::Demonstration,
    readiness, say,
};

/// The roles that may predict, and that may register and load models.
const ROLES: [&str; 2] = ["analyst", "engineer"];

/// A model may have been registered just now.
const MODEL_TIMEOUT: Duration = Duration::from_secs(120);

/// Options of `rampart welcome`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The front door, as clients on this machine see it.
    #[arg(long, default_value = "https://localhost:8095")]
    front: String,
    /// The CA that signed its certificate.
    #[arg(long, default_value = "certs/ca.pem")]
    ca_file: PathBuf,
    /// The folder with the one-time token and the admin's password.
    #[arg(long, default_value = "/state/secrets")]
    secrets: PathBuf,
    /// The folder for accounts and tokens; only its owner can read it.
    #[arg(long, default_value = "access")]
    access: PathBuf,
    /// The folder of models, for a golden example.
    #[arg(long, default_value = "/models")]
    models: PathBuf,
    /// How long the platform may take to become ready. Seconds.
    #[arg(long, default_value_t = 180)]
    timeout_s: u32,
}

/// Waits, makes the accounts at the first time, predicts.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let folder = AccessFolder::open(&arguments.access)?;
    for (name, service) in [("bootstrap-token", topology::name::GATEWAY), ("admin-password", topology::name::OPERATOR)]
    {
        let (from, to) = (arguments.secrets.join(name), folder.secret(service, name));
        // What its user has written there since then, e.g. a changed password, stays.
        if to.exists() {
            continue;
        }
        let secret = fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
        secrets::make_folder(to.parent().context("a secret lies in a folder")?, 0o700)?;
        secrets::replace_file(&to, secret.as_bytes(), 0o600, None)?;
    }
    let client = Client::new(&arguments.front, &arguments.ca_file, Proxies::Never)?;
    readiness::wait(&client, Duration::from_secs(arguments.timeout_s.into())).await?;
    say(&format!("everything is healthy after {:.1} s", started.elapsed().as_secs_f64()));
    Accounts::open(&folder, &client, &ROLES).await?;
    let notes = [
        ("admin", format!("password in {}", folder.secret(topology::name::OPERATOR, "admin-password").display())),
        ("tokens", format!("{} (good for 10 min; scripts/up writes new ones)", folder.root().join("tokens").display())),
        ("logs", "docker compose logs".to_owned()),
    ];
    let demonstration = Demonstration {
        folder: &folder,
        models: &arguments.models,
        client: &client,
        front: &arguments.front,
        ca_file: &arguments.ca_file,
        notes: &notes,
    };
    // Replicas poll the registry every few seconds, and prove a model before it serves.
    demonstration.run(started, tokio::time::Instant::now() + MODEL_TIMEOUT).await
}
