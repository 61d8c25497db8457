//! Searches files and output for secrets that must not be there: plain, and in base64 at every offset of the encoded text.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, alphabet, engine::GeneralPurpose, engine::general_purpose::NO_PAD};

/// Shorter ones would be found by chance.
const LENGTH_MIN: usize = 16;

/// The secrets that are searched for.
#[derive(Default)]
pub struct SecretSearch {
    /// A name for the secret, and its text.
    patterns: Vec<(String, String)>,
    /// How many secrets.
    pub owners: usize,
}

// === impl SecretSearch ===

impl SecretSearch {
    /// Searches for this one, too.
    ///
    /// # Errors
    /// It is too short, or has several lines.
    pub fn add(&mut self, owner: &str, value: &str) -> anyhow::Result<()> {
        ensure!(value.len() >= LENGTH_MIN && !value.contains('\n'), "{owner} cannot be looked for");
        self.owners += 1;
        self.patterns.push((owner.to_owned(), value.to_owned()));
        for alphabet in [&alphabet::STANDARD, &alphabet::URL_SAFE] {
            let engine = GeneralPurpose::new(alphabet, NO_PAD);
            // Three bytes become four characters: what is before it decides its first characters, what follows its last.
            for (before, mixed) in [(0, 0), (1, 2), (2, 3)] {
                let encoded = engine.encode([&vec![0; before], value.as_bytes()].concat());
                let whole = encoded.len() - usize::from(!(before + value.len()).is_multiple_of(3));
                let certain = encoded.get(mixed..whole).context("base64 is ASCII")?;
                self.patterns.push((format!("{owner} in base64"), certain.to_owned()));
            }
        }
        Ok(())
    }

    /// Searches for the secret in this file, too.
    ///
    /// # Errors
    /// It cannot be read, or holds nothing that can be looked for.
    pub fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let value = text.trim().trim_start_matches("Authorization: Bearer ");
        // Of a PEM file any line of the key is the secret, not the frame around it.
        let lines = value.lines().filter(|line| !line.starts_with("-----"));
        self.add(&path.display().to_string(), lines.max_by_key(|line| line.len()).unwrap_or_default())
    }

    /// Each pattern on a line of its own, as `grep --file` wants it; only this user can read it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn pattern_file(&self) -> anyhow::Result<tempfile::NamedTempFile> {
        let mut patterns = tempfile::NamedTempFile::new()?;
        let lines: Vec<_> = self.patterns.iter().map(|(_, text)| text.as_str()).collect();
        patterns.write_all(lines.join("\n").as_bytes())?;
        Ok(patterns)
    }

    /// The files that hold one of them. `grep` reads a hundred megabytes in the time in which a test build reads one.
    ///
    /// # Errors
    /// A file that is there could not be searched.
    pub fn search(&self, places: &[PathBuf]) -> anyhow::Result<Vec<String>> {
        let patterns = self.pattern_file()?;
        let mut grep = Command::new("grep");
        grep.env("LC_ALL", "C").args(["--fixed-strings", "--text", "--files-with-matches", "--file"]);
        let output = grep.arg(patterns.path()).arg("--").args(places).output()?;
        // What has gone meanwhile, a process or a file of the database, holds nothing.
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let unread: Vec<_> = complaints.lines().filter(|line| !line.contains("No such ")).collect();
        ensure!(unread.is_empty(), "not searched: {unread:?}");
        let found = String::from_utf8(output.stdout)?;
        let holders = found.lines();
        Ok(holders
            .map(|path| format!("{path} holds {:?}", self.owner_of(&fs::read(path).unwrap_or_default())))
            .collect())
    }

    /// The names of the secrets that a program prints.
    ///
    /// # Errors
    /// The program failed.
    pub fn search_output(&self, command: &mut Command) -> anyhow::Result<Vec<String>> {
        let patterns = self.pattern_file()?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let printed = child.stdout.take().context("its output is piped")?;
        let mut grep = Command::new("grep");
        grep.env("LC_ALL", "C").args(["--fixed-strings", "--text", "--only-matching", "--no-filename", "--file"]);
        let output = grep.arg(patterns.path()).stdin(Stdio::from(printed)).output()?;
        ensure!(child.wait()?.success(), "{command:?} failed");
        ensure!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(found.lines().map(|line| self.owner_of(line.as_bytes()).unwrap_or("unknown").to_owned()).collect())
    }

    /// The name of the secret in this text.
    pub fn owner_of(&self, text: &[u8]) -> Option<&str> {
        let is_in = |pattern: &str| text.windows(pattern.len()).any(|window| window == pattern.as_bytes());
        self.patterns.iter().find(|(_, pattern)| is_in(pattern)).map(|(owner, _)| owner.as_str())
    }
}

/// Every file below, or the file itself; not what Git keeps packed, nor what a build left, nor links and sockets.
pub fn files_in(place: &Path) -> Vec<PathBuf> {
    let Ok(kind) = fs::symlink_metadata(place) else { return Vec::new() };
    if kind.is_file() {
        return vec![place.to_owned()];
    }
    let is_left_out = place.ends_with(".git") || place.join("CACHEDIR.TAG").exists();
    if !kind.is_dir() || is_left_out {
        return Vec::new();
    }
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.flat_map(|entry| files_in(&entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_plain_and_in_base64_wherever_that_begins() {
        let mut patterns = SecretSearch::default();
        let secret = "correct-horse-battery";
        patterns.add("it", secret).unwrap();
        let encode = |before: &str| base64::engine::general_purpose::STANDARD.encode(format!("{before}{secret}!"));
        for text in [secret.to_owned(), encode(""), encode("a"), encode("ab"), encode("abc")] {
            assert!(patterns.owner_of(text.as_bytes()).is_some(), "{text}");
            assert_eq!(patterns.search_output(Command::new("echo").arg(&text)).unwrap().len(), 1, "{text}");
        }
        assert_eq!(patterns.owner_of(b"correct-horse-batters"), None);
        patterns.add("short", "12345").unwrap_err();
    }
}
