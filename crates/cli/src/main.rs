#![doc = include_str!("../README.md")]

mod audit;
mod backup;
mod command;
mod connection;
mod library;
mod login;
mod models;
mod output;
mod password;
mod probe;
mod reference;
mod state_file;
mod status;
mod token_file;
mod users;
mod welcome;

use std::{io, process::ExitCode};

use bootstrap::{output_failure, say_error};
use clap::Parser as _;

use command::Arguments;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return answered(&answer),
    };
    let code = command::run(arguments).unwrap_or_else(|error| {
        let lines: Vec<String> = format!("{error:#}").lines().map(output::printable).collect();
        say_error(&format!("rampart: {}", lines.join("\n")));
        ExitCode::FAILURE
    });
    match output_failure() {
        None => code,
        Some(error) => unwritten(error),
    }
}

/// Prints a help, the version, or what is wrong with the command line.
fn answered(answer: &clap::Error) -> ExitCode {
    match answer.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => unwritten(&error),
        _ => u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

fn unwritten(error: &io::Error) -> ExitCode {
    say_error(&format!("rampart: cannot write to standard output: {error}"));
    ExitCode::FAILURE
}
