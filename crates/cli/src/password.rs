//! A password, from a file, from a terminal without being shown, or from a pipe.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read},
    path::Path,
};

use anyhow::{Context as _, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// The gateway takes no longer one.
const BYTES_MAX: u64 = 64 << 10;

/// Reads it; `prompt` is shown where a person types it.
pub(crate) fn read(file: Option<&Path>, prompt: &str) -> anyhow::Result<String> {
    let password = match file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            first_line(file).with_context(|| format!("cannot read a password from {}", path.display()))?
        }
        None if io::stdin().is_terminal() => typed(prompt)?,
        None => first_line(io::stdin()).context("cannot read a password from standard input")?,
    };
    ensure!(!password.is_empty(), "there is no password");
    Ok(password)
}

/// A new password, typed twice where a person types it.
pub(crate) fn read_new(file: Option<&Path>, whose: &str) -> anyhow::Result<String> {
    let password = read(file, &format!("new password of {whose}: "))?;
    if file.is_none() && io::stdin().is_terminal() {
        ensure!(typed("the same again: ")? == password, "these were two different passwords");
    }
    Ok(password)
}

fn typed(prompt: &str) -> anyhow::Result<String> {
    // Ctrl-C would end the process before the terminal shows what is typed again. Caught, it is an error like others.
    let _interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    rpassword::prompt_password(prompt).context("no password was typed")
}

fn first_line(from: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(from).take(BYTES_MAX).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        for (text, password) in [("a b\n", "a b"), ("a\r\n", "a"), ("a", "a"), (" a \nb\n", " a "), ("", "")] {
            assert_eq!(first_line(text.as_bytes()).unwrap(), password);
        }
        let endless = first_line(io::repeat(b'a')).unwrap();
        assert_eq!(endless.len() as u64, BYTES_MAX, "what never ends is not read to its end");
    }
}
