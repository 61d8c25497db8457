//! Children that end with us, however we end.

use std::{path::Path, process::Command};

/// A command, so wrapped that the kernel kills it when the thread that starts it ends: nothing is left behind even by
/// `kill -9`. So it must be started by a thread that lives as long as it should, as those of a runtime do.
///
/// `setpriv` is part of util-linux; without it the command is as any other. Setting this ourselves would need unsafe code
/// between fork and exec.
pub fn die_with_parent(executable: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(executable);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(executable);
    command
}
