//! Programs of PostgreSQL get none of the caller's settings for them.

use std::{env, ffi::OsString, process::Command};

/// libpq, and libraries like it, take their defaults from variables that begin so (PostgreSQL 17, section 32.15).
const PREFIX: &str = "PG";

/// Takes every variable away that could send the program elsewhere or make it refuse: `PGOPTIONS`, `PGCHANNELBINDING`, `PGHOST`, …
pub fn without_settings(command: &mut Command) -> &mut Command {
    for name in settings(env::vars_os().map(|(name, _)| name)) {
        command.env_remove(name);
    }
    command
}

fn settings(names: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    names.filter(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_libpq_are_found() {
        let names = ["PGOPTIONS", "PATH", "PGCHANNELBINDING", "XPG", "PAGER", "PG_COLOR"].map(OsString::from);
        assert_eq!(settings(names.into_iter()).collect::<Vec<_>>(), ["PGOPTIONS", "PGCHANNELBINDING", "PG_COLOR"]);
    }
}
