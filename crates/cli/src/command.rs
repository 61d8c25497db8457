//! The commands of `rampart`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{audit, backup, login, models, probe, reference, status, users, welcome};

/// Part of every help and every page of the manual.
const EXIT_CODES: &str = "\
EXIT CODES:
  0  Done; what was asked about is healthy, VALID or can be served.
  1  Failed, refused, not healthy, INVALID or not to be served; or the result could not be written. Standard error says why.
  2  The command line is wrong, and nothing was done. `backup verify` also ends so when it has no verdict (NOT VERIFIED), and
     `backup create --verify` when there is no set or no verdict.

A pipe whose reader closes it changes no exit code, save where a secret was to be shown.";

#[derive(Parser)]
// `scripts/dev` gives options of its own first; the reader's come after them and win.
#[command(name = "rampart", version, about, args_override_self = true, after_long_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform on this machine, without containers, until Ctrl-C.
    Dev(dev::Arguments),
    /// Write certificates and secrets into the volume of each container, and operate Vault.
    Steward(steward::Arguments),
    /// Seal the secrets that must live elsewhere into one file; compare or restore them. Runs in the steward's container.
    #[command(subcommand)]
    Escrow(steward::escrow::Command),
    /// Ask the service in this container whether it is ready, for the health check.
    Probe(probe::Arguments),
    /// Make the first admin of a platform of containers, predict once, and print the next steps.
    Welcome(welcome::Arguments),
    /// Exchange your password for a token in a file, which the other commands use and renew.
    Login(login::Arguments),
    /// End that login and its tokens.
    Logout(login::Place),
    /// Print the state of every replica; exit code 1 when one is not healthy.
    Status(status::Arguments),
    /// List, make, change, revoke and remove users.
    #[command(subcommand)]
    Users(users::Command),
    /// Print the audit log, newest first.
    Audit(audit::Arguments),
    /// List, add, check, load and unload models.
    #[command(subcommand)]
    Models(models::Command),
    /// Make and verify backup sets; list, show and cancel runs.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Print what completes these commands in a shell: source <(rampart completions bash)
    Completions(reference::Completions),
    /// Print the manual page, or write one for every command.
    Man(reference::Pages),
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    identity::install_crypto_providers()?;
    // One thread: the kernel ties a child's life to the thread that started it (see the crate dev's process.rs).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = |()| ExitCode::SUCCESS;
    runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => dev::run(arguments).await.map(done),
            Command::Steward(arguments) => steward::run(arguments).await.map(done),
            Command::Escrow(command) => steward::escrow::run(command),
            Command::Probe(arguments) => probe::run(arguments).await,
            Command::Welcome(arguments) => welcome::run(arguments).await.map(done),
            Command::Login(arguments) => login::run(arguments).await.map(done),
            Command::Logout(place) => login::end(place).await.map(done),
            Command::Status(arguments) => status::run(arguments).await,
            Command::Users(command) => users::run(command).await.map(done),
            Command::Audit(arguments) => audit::run(arguments).await.map(done),
            Command::Models(command) => models::run(command).await,
            Command::Backup(command) => backup::run(command).await,
            Command::Completions(arguments) => reference::complete(&arguments, Arguments::command()).map(done),
            Command::Man(arguments) => reference::write_pages(&arguments, Arguments::command()).map(done),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }
}
