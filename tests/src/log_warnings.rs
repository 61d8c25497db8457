//! Warnings and errors in a platform's logs. A healthy run has no WARN and no ERROR (`docs/LOGGING.md`), so a test that
//! provokes one names it, and every other line of these levels fails the test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

/// Warnings that are allowed while all processes start at once. A healthy start should have none either: this list only
/// shrinks.
const START_UP: &[&str] = &[
    // The gateway is up before it has a connection to the database.
    "users and revocations cannot be followed",
    // A dozen processes that start on two busy cores wait longer for the database than usual.
    "the database cannot be reached now",
    "acquired connection, but time to acquire exceeded slow threshold",
    // A transaction was cancelled before it had begun.
    "there is no transaction in progress",
];

/// How long each log is now.
pub type Lengths = BTreeMap<PathBuf, usize>;

/// Measures the logs, at the end of the start.
///
/// # Errors
/// The logs cannot be read.
pub fn lengths(logs: &Path) -> anyhow::Result<Lengths> {
    let mut lengths = Lengths::new();
    for entry in fs::read_dir(logs).with_context(|| format!("no logs in {}", logs.display()))? {
        let entry = entry?;
        lengths.insert(entry.path(), usize::try_from(entry.metadata()?.len())?);
    }
    Ok(lengths)
}

/// Lines of the services' logs at WARN and ERROR, and those that are no log lines at all (a panic before the log is set
/// up), save those whose message begins with one of `expected`. `started` is how long each log was after the start.
/// PostgreSQL has levels of its own and is left out.
///
/// # Errors
/// The logs cannot be read.
pub fn warnings(started: &Lengths, expected: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, length) in started.iter().filter(|(path, _)| !path.ends_with("postgres.log")) {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (start, rest) = text.split_at_checked(*length).context("a log became shorter")?;
        let (start, rest) = (String::from_utf8_lossy(start), String::from_utf8_lossy(rest));
        let start = start.lines().filter(|line| is_unexpected(line, expected) && !is_start_up(line));
        let rest = rest.lines().filter(|line| is_unexpected(line, expected));
        let name = path.file_stem().unwrap_or_default().display();
        found.extend(start.chain(rest).map(|line| format!("{name}: {line}")));
    }
    Ok(found)
}

fn is_start_up(line: &str) -> bool {
    START_UP.iter().any(|allowed| line.contains(allowed))
}

fn is_unexpected(line: &str, expected: &[&str]) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return !line.trim().is_empty() };
    let field = |name| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_warning = matches!(field("level"), "WARN" | "ERROR");
    is_warning && !expected.iter().any(|start| field("message").starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unexpected_warnings_and_errors_are_reported() {
        let line = |level: &str, message: &str| serde_json::json!({ "level": level, "message": message }).to_string();
        for (line, expected) in [
            (line("INFO", "listening"), false),
            (line("WARN", "replica is down"), true),
            (line("ERROR", "internal error"), true),
            (line("WARN", "provoked by the test"), false),
            ("thread 'main' panicked at".to_owned(), true),
            (String::new(), false),
        ] {
            assert_eq!(is_unexpected(&line, &["provoked"]), expected, "{line}");
        }
    }

    #[test]
    fn a_warning_allowed_during_start_is_reported_later() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("balancer-1.log");
        let line = r#"{"level":"WARN","message":"users and revocations cannot be followed"}"#;
        let other = r#"{"level":"WARN","message":"anything else"}"#;
        fs::write(&log, format!("{line}\n{other}\n")).unwrap();
        let started = lengths(directory.path()).unwrap();
        fs::write(&log, format!("{line}\n{other}\n{line}\n")).unwrap();
        let expected = [other, line].map(|line| format!("balancer-1: {line}"));
        assert_eq!(warnings(&started, &[]).unwrap(), expected);
    }
}
