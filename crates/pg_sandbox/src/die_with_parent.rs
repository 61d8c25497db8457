//! Child processes that end with the thread that started them.

use std::{path::Path, process::Command};

/// A command that the kernel kills when the thread that started it ends, by `kill -9` too. So it must be started by a thread
/// that lives as long as the child should, as those of a runtime do.
///
/// `setpriv` is part of util-linux; without it the command is as any other. To set the signal without it would need unsafe
/// code between fork and exec.
pub fn die_with_parent(executable: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(executable);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(executable);
    command
}
