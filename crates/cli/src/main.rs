#![doc = include_str!("../README.md")]

mod backup;
mod client;
mod dev;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
// `scripts/dev` gives options of its own first; the reader's come after them and win.
#[command(name = "rampart", version, about, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform on this machine, without containers, until Ctrl-C.
    Dev(dev::Arguments),
    /// Make and verify backup sets.
    #[command(subcommand)]
    Backup(backup::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("rampart: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    identity::install_crypto_providers()?;
    // One thread: the kernel ties a child's life to the thread that started it (see dev/process.rs).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Dev(arguments) => dev::run(arguments).await.map(|()| ExitCode::SUCCESS),
            Command::Backup(command) => backup::run(command).await,
        }
    })
}

/// A line for the person at the terminal. A closed pipe is no reason to die.
fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
}

fn say_error(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
