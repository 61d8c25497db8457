#![doc = include_str!("../README.md")]

pub mod access_folder;
pub mod accounts;
pub mod client;
pub mod platform_secrets;
pub mod prediction;
pub mod readiness;

/// Prints a line. A closed pipe is no error.
pub fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
}

/// The same on standard error.
pub fn say_error(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
