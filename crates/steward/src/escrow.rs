//! `rampart escrow`: the secrets that must also live elsewhere, sealed into one file of age with a tar in it.
//!
//! It runs where the steward's secrets are, in a container that ends. Keys and sealed files come on standard input and go to standard
//! output, so that no plaintext is ever in a file but those of the platform. `scripts/escrow` is what people call.

mod contents;
mod input;
mod sealed;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use bootstrap::say;
use time::OffsetDateTime;

use contents::{Folders, Place};
use sealed::Escrow;

/// Commands of `rampart escrow`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Write every secret that must live elsewhere to standard output, sealed: to a recipient of age, or to the passphrase that is the first
    /// line of standard input.
    Export {
        /// The folders.
        #[command(flatten)]
        folders: Folders,
        /// The recipient of age (age1…); its identity is kept away from this machine.
        #[arg(long)]
        recipient: Option<String>,
    },
    /// Compare a sealed escrow with what the platform uses now; exit code 1 when a secret is missing or another. Standard input is a line with
    /// the passphrase or the identity (AGE-SECRET-KEY-1…), and then the file.
    Check {
        /// The folders.
        #[command(flatten)]
        folders: Folders,
    },
    /// Write the secrets of a sealed escrow to where a platform has them that has none yet. Standard input is as for `check`.
    Import {
        /// The folders.
        #[command(flatten)]
        folders: Folders,
        /// Take an escrow that lacks secrets of this version, which the steward then makes anew.
        #[arg(long)]
        accept_missing: bool,
    },
    /// Write one secret of a sealed escrow to standard output, which may not be a terminal. Standard input is as for `check`.
    Show {
        /// Its name in the escrow, as `state-steward/backup/age-identity`.
        name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or written, an escrow cannot be opened, or an import would replace other secrets.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Export { folders, recipient } => export(&folders, recipient.as_deref())?,
        Command::Check { folders } => return check(&folders, &open()?),
        Command::Import { folders, accept_missing } => import(&folders, &open()?, accept_missing)?,
        Command::Show { name } => show(&open()?, &name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn export(folders: &Folders, recipient: Option<&str>) -> anyhow::Result<()> {
    refuse_terminal()?;
    let recipient = match recipient {
        Some(text) => sealed::recipient(text)?,
        None => sealed::passphrase(&input::read_key(&mut io::stdin().lock())?)?,
    };
    let escrow = Escrow { made: OffsetDateTime::now_utc(), secrets: folders.read_all()? };
    write(&escrow.seal(&*recipient)?)
}

fn open() -> anyhow::Result<Escrow> {
    let mut stdin = io::stdin().lock();
    let key = input::read_key(&mut stdin)?;
    Escrow::open(&input::read_sealed(&mut stdin)?, &key)
}

fn check(folders: &Folders, escrow: &Escrow) -> anyhow::Result<ExitCode> {
    let faults = faults(folders, escrow)?;
    faults.iter().for_each(|fault| say(fault));
    if !faults.is_empty() {
        say(&format!("the escrow of {} does not fit: make a new one", escrow.made));
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("the escrow of {} has all {} secrets that the platform uses", escrow.made, folders.places().len()));
    Ok(ExitCode::SUCCESS)
}

/// A line for each secret that the escrow lacks, has otherwise, or has and the platform does not.
fn faults(folders: &Folders, escrow: &Escrow) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for place in folders.places() {
        let fault = match (escrow.secrets.get(&place.name), place.read()?) {
            (None, _) => "is missing in the escrow",
            (Some(_), None) => "is in the escrow, and the platform does not have it",
            (Some(kept), Some(used)) if *kept != used => "is another one than the platform uses",
            (Some(_), Some(_)) => continue,
        };
        faults.push(format!("{} {fault}", place.name));
    }
    Ok(faults)
}

fn import(folders: &Folders, escrow: &Escrow, accept_missing: bool) -> anyhow::Result<()> {
    let places = folders.places();
    let missing: Vec<&str> =
        places.iter().map(|place| &*place.name).filter(|name| !escrow.secrets.contains_key(*name)).collect();
    ensure!(
        missing.is_empty() || accept_missing,
        "the escrow of {} lacks {}; nothing was written. Where this version has more secrets than that of the escrow, \
         --accept-missing lets the steward make them anew",
        escrow.made,
        missing.join(", ")
    );
    let (mut others, mut absent): (Vec<&str>, Vec<&Place>) = (Vec::new(), Vec::new());
    for place in &places {
        match (escrow.secrets.get(&place.name), place.read()?) {
            (Some(kept), Some(used)) if *kept != used => others.push(&place.name),
            (Some(_), None) => absent.push(place),
            _ => {}
        }
    }
    ensure!(
        others.is_empty(),
        "this platform has secrets of its own already: {}; nothing was written. An escrow is for a platform that never started: its \
         volumes and its folder of the CA are empty",
        others.join(", ")
    );
    for place in &absent {
        let secret = escrow.secrets.get(&place.name).context("a secret that is absent here is in the escrow")?;
        place.write(secret)?;
    }
    say(&format!(
        "{} secrets of the escrow of {} written, {} were there",
        absent.len(),
        escrow.made,
        places.len() - absent.len() - missing.len()
    ));
    Ok(())
}

fn show(escrow: &Escrow, name: &str) -> anyhow::Result<()> {
    refuse_terminal()?;
    let Some(secret) = escrow.secrets.get(name) else {
        let names: Vec<&str> = escrow.secrets.keys().map(String::as_str).collect();
        bail!("the escrow has no {name}; it has {}", names.join(", "))
    };
    write(secret.expose())
}

/// What was shown on a terminal stays in its memory.
fn refuse_terminal() -> anyhow::Result<()> {
    ensure!(!io::stdout().is_terminal(), "standard output is a terminal: write into a file or a pipe");
    Ok(())
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests;
