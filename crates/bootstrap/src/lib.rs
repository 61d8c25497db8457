#![doc = include_str!("../README.md")]

pub mod access_folder;
pub mod accounts;
pub mod client;
pub mod platform_secrets;
pub mod prediction;
pub mod readiness;

/// A line for the person at the terminal. A closed pipe is no reason to die.
pub fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
}

/// The same on standard error.
pub fn say_error(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
