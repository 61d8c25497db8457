//! The commands of `rampart`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{backup, connection::Connection, login, models, probe, status, users, welcome};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the whole platform on this machine, without containers, until Ctrl-C.
    Dev(dev::Arguments),
    /// Write certificates and secrets into the volume of each container, and operate Vault.
    Steward(steward::Arguments),
    /// Ask the service in this container whether it is ready, for the health check.
    Probe(probe::Arguments),
    /// Make the first admin of a platform of containers, predict once, and print the next steps.
    Welcome(welcome::Arguments),
    /// Exchange your password for a token in a file, which the other commands use.
    Login(login::Arguments),
    /// Print the state of every replica; exit code 1 when one is not healthy.
    Status(Connection),
    /// List, make, revoke and remove users.
    #[command(subcommand)]
    Users(users::Command),
    /// List, load and unload models.
    #[command(subcommand)]
    Models(models::Command),
    /// Make and verify backup sets.
    #[command(subcommand)]
    Backup(backup::Command),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    identity::install_crypto_providers()?;
    // One thread: the kernel ties a child's life to the thread that started it (see the crate dev's process.rs).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Dev(arguments) => dev::run(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Steward(arguments) => steward::run(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Probe(arguments) => probe::run(arguments).await,
            Command::Welcome(arguments) => welcome::run(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Login(arguments) => login::run(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Status(connection) => status::run(connection).await,
            Command::Users(command) => users::run(command).await.map(|()| ExitCode::SUCCESS),
            Command::Models(command) => models::run(command).await,
            Command::Backup(command) => backup::run(command).await,
        }
    })
}
