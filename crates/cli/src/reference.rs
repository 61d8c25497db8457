//! `rampart completions` and `rampart man`: what a shell and `man` know of the commands, made from the commands themselves.

use std::{fs, io, path::PathBuf};

use anyhow::Context as _;
use bootstrap::show;
use clap_complete::aot::{Bash, Fish, Zsh, generate};
use clap_mangen::Man;

/// The program that is completed.
const PROGRAM: &str = "rampart";

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Options of `rampart completions`.
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Options of `rampart man`.
#[derive(clap::Args)]
pub(crate) struct Pages {
    /// Write a page for every command into this folder, made where there is none. Without it, the page of rampart itself is printed.
    directory: Option<PathBuf>,
}

/// Prints the script.
pub(crate) fn complete(arguments: &Completions, mut commands: clap::Command) -> anyhow::Result<()> {
    print(&script(arguments.shell, &mut commands)?)
}

/// Prints the page, or writes all of them.
pub(crate) fn write_pages(arguments: &Pages, commands: clap::Command) -> anyhow::Result<()> {
    let Some(directory) = &arguments.directory else { return print(&page(commands)?) };
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(commands, directory));
    written.with_context(|| format!("cannot write into {}", directory.display()))
}

fn script(shell: Shell, commands: &mut clap::Command) -> anyhow::Result<String> {
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, commands, PROGRAM, &mut script),
        Shell::Zsh => generate(Zsh, commands, PROGRAM, &mut script),
        Shell::Fish => generate(Fish, commands, PROGRAM, &mut script),
    }
    Ok(String::from_utf8(script)?)
}

fn page(commands: clap::Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    Man::new(commands).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    match show(text.trim_end_matches('\n')) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::command::Arguments;

    /// Proves that what is added to the commands is in the scripts and pages.
    #[test]
    fn every_command_is_completed_and_has_a_page() {
        let names = |command: &clap::Command| -> Vec<String> {
            command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
        };
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, &mut Arguments::command()).unwrap();
            for name in names(&Arguments::command()) {
                assert!(script.contains(&name), "{name}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let pages = Pages { directory: Some(folder.path().join("man1")) };
        write_pages(&pages, Arguments::command()).unwrap();
        for command in Arguments::command().get_subcommands() {
            let one = folder.path().join(format!("man1/rampart-{}.1", command.get_name()));
            assert!(one.is_file(), "{one:?}");
            for below in names(command) {
                let one = folder.path().join(format!("man1/rampart-{}-{below}.1", command.get_name()));
                assert!(one.is_file(), "{one:?}");
            }
        }
        assert!(page(Arguments::command()).unwrap().contains("EXIT CODES"));
    }
}
