#![doc = include_str!("../README.md")]

mod backup;
mod client;
mod command;
mod connection;
mod dev;
mod files;
mod login;
mod models;
mod platform_secrets;
mod probe;
mod status;
mod steward;
mod users;
mod welcome;

use std::process::ExitCode;

use clap::Parser;

use command::Command;

#[derive(Parser)]
// `scripts/dev` gives options of its own first; the reader's come after them and win.
#[command(name = "rampart", version, about, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match command::run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("rampart: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for the person at the terminal. A closed pipe is no reason to die.
fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
}

fn say_error(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
