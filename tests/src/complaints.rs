//! What a platform's logs say against it. A healthy run shows no WARN and no ERROR (`docs/LOGGING.md`), so a test that
//! provokes one names it, and every other line of these levels fails the test.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde_json::Value;

/// Lines of the services' logs at WARN and ERROR, and those that are no log lines at all (a panic before the log is set
/// up), save those whose message begins with one of `expected`. PostgreSQL has levels of its own and is left out.
///
/// # Errors
/// The logs cannot be read.
pub fn complaints(logs: &Path, expected: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs).with_context(|| format!("no logs in {}", logs.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name == "postgres" {
            continue;
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| is_complaint(line, expected));
        found.extend(lines.map(|line| format!("{name}: {line}")));
    }
    Ok(found)
}

fn is_complaint(line: &str, expected: &[&str]) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return !line.trim().is_empty() };
    let field = |name| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_loud = matches!(field("level"), "WARN" | "ERROR");
    is_loud && !is_start_up(&field) && !expected.iter().any(|start| field("message").starts_with(start))
}

/// Services start together, and the balancer says of each replica that it is not there yet.
fn is_start_up<'a>(field: &impl Fn(&'static str) -> &'a str) -> bool {
    field("message") == "replica is down" && field("before") == "starting"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loud_unexpected_lines_are_complaints() {
        let line = |level: &str, message: &str, before: &str| {
            serde_json::json!({ "level": level, "message": message, "before": before }).to_string()
        };
        for (line, expected) in [
            (line("INFO", "listening", ""), false),
            (line("WARN", "replica is down", "starting"), false),
            (line("WARN", "replica is down", "healthy"), true),
            (line("ERROR", "internal error", ""), true),
            (line("WARN", "provoked by the test", ""), false),
            ("thread 'main' panicked at".to_owned(), true),
            (String::new(), false),
        ] {
            assert_eq!(is_complaint(&line, &["provoked"]), expected, "{line}");
        }
    }
}
