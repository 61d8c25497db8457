//! `rampart-backup verify`: verifies a set without a worker, with nothing but the set, two keys and PostgreSQL.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Command, value_parser};
use problem::Chain;
use secrets::SecretFile;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    keys::{DecryptionKey, VerifyingKey},
    progress::Progress,
    run::Verdict,
    set_name::SetName,
    verify::{self, Verifier, VerifyError},
};

/// The word after the program's name.
pub const SUBCOMMAND: &str = "verify";

/// Verifies a set; the arguments are those after the subcommand. Exit code 0: VALID, 1: INVALID, 2: no verdict.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = OsString::from("rampart-backup verify");
    let arguments = command().get_matches_from(std::iter::once(name).chain(arguments));
    match verify(&arguments) {
        Ok(Verdict::Valid) => print(&mut io::stdout(), "VALID", ExitCode::SUCCESS),
        Ok(Verdict::Invalid(reasons)) => {
            print(&mut io::stdout(), &format!("INVALID\n{}", reasons.join("\n")), ExitCode::FAILURE)
        }
        Err(error) => print(&mut io::stderr(), &format!("not verified: {}", Chain(error.as_ref())), ExitCode::from(2)),
    }
}

fn verify(arguments: &ArgMatches) -> Result<Verdict, service::BoxError> {
    let path = |name: &str| arguments.get_one::<PathBuf>(name).cloned();
    let required = |name: &str| path(name).ok_or_else(|| format!("--{name} is missing"));
    let set: SetName = arguments.get_one::<String>("set").ok_or("--set is missing")?.parse()?;
    let verifier = Verifier {
        root: required("root")?,
        verifying_key: VerifyingKey::read(&required("public-key")?)?,
        decryption_key: DecryptionKey::read(&SecretFile::new(required("identity")?))?,
        scratch: path("scratch").unwrap_or_else(std::env::temp_dir),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate, mut hang_up) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let scratch = &verifier.scratch;
        verify::remove_orphaned(scratch).map_err(|source| VerifyError::Scratch { path: scratch.clone(), source })?;
        let progress = Progress::default();
        // A signal drops the verification, which removes its scratch cluster.
        tokio::select! {
            verdict = verifier.verify(&set, None, &progress) => Ok(verdict?),
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("ended by SIGTERM".into()),
            _ = hang_up.recv() => Err("ended by SIGHUP".into()),
        }
    })
}

fn command() -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).required(true).help(help)
    };
    Command::new("rampart-backup verify")
        .about("Prove a backup set: signature, chain, every byte, and a restore into a scratch cluster")
        .arg(file("root", "The directory of all sets; the set before this one must be there too"))
        .arg(Arg::new("set").long("set").value_name("NAME").required(true).help("The set, e.g. ml-data-2026-11-22"))
        .arg(file("identity", "The age identity that opens the set (mode 0600)"))
        .arg(file("public-key", "The Ed25519 public key of the manifest's signature, PEM"))
        .arg(
            file("scratch", "Where to restore, in plaintext for that while; default: the temporary directory")
                .required(false),
        )
}

/// A closed standard stream is ignored: the exit code still has the verdict.
fn print(stream: &mut dyn Write, line: &str, code: ExitCode) -> ExitCode {
    let _closed = writeln!(stream, "{line}");
    code
}
