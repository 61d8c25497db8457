#![doc = include_str!("../README.md")]

mod certificates;
mod configs;
mod layout;
mod platform;
mod ports;
mod process;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use bootstrap::{
    accounts::{self, Accounts},
    prediction::{Demonstration, word},
    readiness, say,
};
use tokio::signal::unix::{SignalKind, signal};

use layout::{Layout, StateLink};
use platform::Platform;

/// Options of `rampart dev`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Keep everything (database, keys, backups, logs) in this directory; without it all is removed at the end.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The front door's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8095)]
    port: u16,
    /// The folder of models.
    #[arg(long, default_value = "examples/models")]
    models: PathBuf,
    /// ONNX Runtime's shared library.
    #[arg(long)]
    onnxruntime: PathBuf,
    /// Its SHA-256, in hex.
    #[arg(long)]
    onnxruntime_sha256: String,
    /// How long certificates live; they are renewed at half of it. Seconds, at least 4.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(4..))]
    certificate_lifetime_s: u32,
    /// Make this a link to the state file while the platform runs, so that `rampart models` finds it.
    #[arg(long)]
    state_link: Option<PathBuf>,
    /// End after the first prediction.
    #[arg(long)]
    once: bool,
}

/// How long the processes may take to become ready together.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs until Ctrl-C, SIGTERM or the end of the terminal, then stops everything in order.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    // The terminal was closed, so Ctrl-C cannot come any more.
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let layout = Layout::create(arguments.data.as_deref())?;
    say(&format!("data: {}{}", layout.root().display(), if layout.is_kept() { "" } else { " (removed at the end)" }));
    let mut platform = Platform::prepare(&arguments, &layout)?;
    let outcome = tokio::select! {
        outcome = drive(&arguments, &layout, &mut platform) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    };
    say("stopping");
    platform.stop().await;
    if outcome.is_err() && !layout.is_kept() {
        say(&format!("the logs were kept: {}", layout.keep_logs()?.display()));
    }
    outcome
}

/// Starts everything, predicts once, then renews certificates and tokens without end.
async fn drive(arguments: &Arguments, layout: &Layout, platform: &mut Platform) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    platform.start(layout).await?;
    let client = platform.client(layout)?;
    readiness::wait(&client, READY_TIMEOUT).await?;
    say(&format!("ready after {:.1} s", started.elapsed().as_secs_f64()));
    let accounts = Accounts::open(&layout.access, &client, &accounts::ALL_ROLES).await?;
    let state = platform.write_state(layout)?;
    let _link = arguments.state_link.as_deref().map(|link| StateLink::make(link, &state)).transpose()?;
    let token = layout.access.token("admin");
    let notes = [
        ("admin token", format!("{} (renewed every 4 min; one file per role beside it)", token.display())),
        ("logs", layout.root().join("logs").display().to_string()),
        ("add a model", format!("rampart models add FILE.onnx --state {}", word(&state))),
    ];
    let demonstration = Demonstration {
        folder: &layout.access,
        models: &arguments.models,
        client: &client,
        front: &platform.front,
        ca_file: &layout.ca_file(),
        notes: &notes,
    };
    // Ready replicas have looked at every model; what does not serve now will not by waiting.
    let demonstrated = demonstration.run(started, tokio::time::Instant::now()).await;
    if arguments.once {
        return demonstrated;
    }
    if let Err(error) = demonstrated {
        say(&format!("no prediction was made: {error:#}"));
    }
    say("running; Ctrl-C stops everything");
    tokio::select! {
        outcome = platform.renew_certificates(layout) => outcome,
        outcome = accounts.keep_fresh(&layout.access, &client) => outcome,
    }
}
