#![doc = include_str!("../README.md")]

mod backup;
mod command;
mod connection;
mod login;
mod models;
mod probe;
mod status;
mod users;
mod welcome;

use std::process::ExitCode;

use bootstrap::say_error;
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
