//! The whole `main` of a service.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use identity::Identity;
use problem::Chain;
use telemetry::{Collector, MetricsHandle, Telemetry};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{Limits, Server};
use vault::{Agent, VaultConfig, VaultError};

use crate::config::{CommonConfig, Configuration, ServiceConfig, load};
use crate::lifecycle::Lifecycle;
use crate::signals::StopSignals;
use crate::{BoxError, admin};

/// What is wrong lies outside of the process: arguments, configuration.
const EXIT_USAGE: u8 = 2;

/// The service's name towards an OTLP collector.
const COLLECTOR: &str = "collector";

/// Scrapes in flight may end; nothing longer happens on the admin listener.
const ADMIN_STOP: Duration = Duration::from_secs(1);

/// Vault may be sealed, or not made yet. After that long a restart is worth a try.
const VAULT_WAIT_MAX: Duration = Duration::from_secs(300);

/// What blocks a thread after everything else has ended is left behind.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// Requests are many small allocations; what this saves of them is in `docs/PERFORMANCE.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What every service has before its own wiring begins.
struct Process {
    lifecycle: Lifecycle,
    telemetry: Telemetry,
    admin: Admin,
}

/// The admin listener outlives the tasks of the service, so that the drain can be watched.
struct Admin {
    stop: CancellationToken,
    task: TaskTracker,
}

/// Runs the service `name` until it is told to stop: this is all that its `main` does.
///
/// `start` does the wiring and returns; what it spawned through the [`Lifecycle`] goes on. The exit code is 0 after a stop
/// that was asked for, 1 when the service failed or had to be cut off, 2 when its configuration was refused.
pub fn run<Own: Configuration>(
    name: &'static str,
    defaults: &str,
    start: impl AsyncFnOnce(Own, Lifecycle) -> Result<(), BoxError>,
) -> ExitCode {
    let arguments = command(name).get_matches();
    let (is_check, file) = match arguments.subcommand() {
        Some(("check-config", arguments)) => (true, config_file(arguments)),
        Some((_, arguments)) => (false, config_file(arguments)),
        None => (false, None),
    };
    let config = match load::<Own>(name, defaults, file.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            say(&mut io::stderr(), &format!("rampart-{name}: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if is_check {
        say(&mut io::stdout(), &format!("rampart-{name}: the configuration is good"));
        return ExitCode::SUCCESS;
    }
    match serve(name, config, start) {
        Ok(code) => code,
        Err(error) => {
            // Before telemetry is set up this is the only voice; after it, an error is logged where it is handled.
            say(&mut io::stderr(), &format!("rampart-{name}: cannot start: {}", Chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn command(name: &'static str) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration (TOML) on top of the built-in defaults");
    Command::new(name)
        .bin_name(format!("rampart-{name}"))
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("serve").about("Run the service").arg(file.clone()))
        .subcommand(Command::new("check-config").about("Check the configuration and exit").arg(file))
}

fn config_file(arguments: &ArgMatches) -> Option<PathBuf> {
    arguments.get_one::<PathBuf>("config").cloned()
}

/// Nobody is left to tell when a standard stream is closed.
fn say(stream: &mut dyn Write, line: &str) {
    let _closed = writeln!(stream, "{line}");
}

fn serve<Own: Configuration>(
    name: &'static str,
    config: ServiceConfig<Own>,
    start: impl AsyncFnOnce(Own, Lifecycle) -> Result<(), BoxError>,
) -> Result<ExitCode, BoxError> {
    identity::install_crypto_providers()?;
    let metrics = telemetry::install_recorder(name)?;
    let ServiceConfig { common, own } = config;
    let workers = common.runtime.threads();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_name(name).worker_threads(workers).build()?;
    let code = runtime.block_on(async {
        let mut signals = StopSignals::catch()?;
        let agent = match &common.vault {
            Some(vault) => Some(ask_vault(name, vault, &common.identity.directory, &mut signals).await?),
            None => None,
        };
        let process = begin(name, &common, metrics).await?;
        if let Some(agent) = agent {
            process.lifecycle.spawn("vault", agent.renew_until(process.lifecycle.soft_stop()));
        }
        let clean = live(&process.lifecycle, &mut signals, own, start).await;
        end(process).await;
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    code
}

/// Waits until Vault has given us a certificate and a password. Before that we cannot prove who we are to anybody.
async fn ask_vault(
    name: &str,
    config: &VaultConfig,
    directory: &Path,
    signals: &mut StopSignals,
) -> Result<Agent, BoxError> {
    let mut agent = Agent::new(config.clone(), directory.to_owned());
    let report = |error: &VaultError| {
        say(&mut io::stderr(), &format!("rampart-{name}: waiting for Vault at {}: {}", config.address, Chain(error)));
    };
    tokio::select! {
        () = agent.fetch_all(report) => Ok(agent),
        signal = signals.next() => Err(format!("{signal} while waiting for Vault at {}", config.address).into()),
        () = tokio::time::sleep(VAULT_WAIT_MAX) => {
            Err(format!("Vault at {} gave nothing in {} s; see its log and the steward's", config.address, VAULT_WAIT_MAX.as_secs()).into())
        }
    }
}

/// Proves who we are, sets up logs and traces, opens the admin listener.
async fn begin(name: &'static str, config: &CommonConfig, metrics: MetricsHandle) -> Result<Process, BoxError> {
    let identity = Identity::load(&config.identity)?;
    let own_name = identity.name();
    if own_name.service != name {
        return Err(format!(
            "the certificate in {} is of the service {}, not of {name}",
            config.identity.directory.display(),
            own_name.service
        )
        .into());
    }
    let collector = config.telemetry.otlp_address();
    let collector = collector.map(|address| Collector::new(transport::channel(&identity, COLLECTOR, &[address])));
    let telemetry = telemetry::init(name, &own_name.instance, &config.telemetry, collector)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity = %own_name, "starting");

    let lifecycle = Lifecycle::new(Arc::clone(&identity));
    let server = Server::bind(&config.admin, Arc::clone(&identity), Limits::default()).await?.named("admin");
    lifecycle.listening("admin", server.local_addr());
    lifecycle.spawn("identity", identity.watch(lifecycle.soft_stop()));
    lifecycle.spawn("metrics", metrics.clone().upkeep(lifecycle.soft_stop()));
    let admin = Admin { stop: CancellationToken::new(), task: TaskTracker::new() };
    let served = server.serve(admin::router(lifecycle.readiness(), metrics)?, admin.stop.clone());
    admin.task.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(error = %Chain(&error), "admin listener failed; health and metrics are gone while the process goes on, restart it");
        }
    });
    admin.task.close();
    Ok(Process { lifecycle, telemetry, admin })
}

/// From the service's own wiring to the end of its tasks. True when all went as it should.
async fn live<Own: Configuration>(
    lifecycle: &Lifecycle,
    signals: &mut StopSignals,
    config: Own,
    start: impl AsyncFnOnce(Own, Lifecycle) -> Result<(), BoxError>,
) -> bool {
    let latch = lifecycle.latch("start");
    // Held until the stop is over: a start that is given up must not open the latches that it holds.
    let mut work = pin!(async {
        match start(config, lifecycle.clone()).await {
            Ok(()) => {
                latch.open();
                lifecycle.failed().await;
            }
            Err(error) => {
                lifecycle.readiness().stop();
                tracing::error!(error = %Chain(error.as_ref()), "cannot start");
            }
        }
    });
    let is_asked = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            true
        }
        () = &mut work => false,
    };
    let is_clean = stop(lifecycle, signals).await;
    is_asked && is_clean
}

/// Stops the tasks; a second signal means now.
async fn stop(lifecycle: &Lifecycle, signals: &mut StopSignals) -> bool {
    let hurry = CancellationToken::new();
    let mut stopping = pin!(lifecycle.stop(hurry.clone()));
    loop {
        tokio::select! {
            is_clean = &mut stopping => return is_clean,
            signal = signals.next() => {
                tracing::warn!(signal, "second stop signal; requests in flight are cut");
                hurry.cancel();
            }
        }
    }
}

/// The last things: nobody can ask any more, and what was traced is sent.
async fn end(process: Process) {
    process.admin.stop.cancel();
    let is_ended = timeout(ADMIN_STOP, process.admin.task.wait()).await.is_ok();
    tracing::info!(admin_ended = is_ended, "stopped");
    let flushed = tokio::task::spawn_blocking(|| process.telemetry.shutdown()).await;
    if let Err(error) = flushed {
        tracing::error!(%error, "the last spans are lost");
    }
}
