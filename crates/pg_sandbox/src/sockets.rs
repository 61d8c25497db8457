//! The directory of a server's unix socket.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{Account, ClusterError, account::first_closed_ancestor, io_error};

/// Directories of sockets, directly in the temporary directory: the path of a socket may have 107 bytes.
pub(crate) const PREFIX: &str = "rampart-pg-";
/// `sockaddr_un` (unix(7)), less the zero at the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Of `/rampart-pg-`, six letters and `/.s.PGSQL.65535.lock`.
const NAME_BYTES: usize = "/rampart-pg-abcdef/.s.PGSQL.65535.lock".len();
/// Where everyone may make one.
const ALWAYS: &str = "/tmp";

/// Makes one in the temporary directory, or in /tmp if a socket could not be there.
pub(crate) fn make(account: Account) -> Result<TempDir, ClusterError> {
    let temporary = env::temp_dir();
    if is_fit(&temporary) {
        let made = make_in(&temporary, account)?;
        let is_reached = account
            .ids()
            .is_none_or(|(user, group)| matches!(first_closed_ancestor(made.path(), user, group), Ok(None)));
        if is_reached {
            return Ok(made);
        }
    }
    make_in(Path::new(ALWAYS), account)
}

fn make_in(directory: &Path, account: Account) -> Result<TempDir, ClusterError> {
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(directory).map_err(io_error(directory))?;
    account.chown(made.path())?;
    Ok(made)
}

/// Whether the path is short enough, and is one to PostgreSQL and libpq, which take lists between commas.
fn is_fit(directory: &Path) -> bool {
    let is_plain = |path: &str| !path.contains([',', '"', '\'', '\\']) && path.trim() == path;
    directory.is_absolute()
        && directory.as_os_str().len() + NAME_BYTES <= SOCKET_PATH_BYTES_MAX
        && directory.to_str().is_some_and(is_plain)
}

/// Removes one that a file of a cluster names. Another process may have done so already.
pub(crate) fn remove_named_in(file: &Path) {
    let Ok(sockets) = fs::read_to_string(file).map(PathBuf::from) else { return };
    if sockets.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
        let _gone = fs::remove_dir_all(sockets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_fit_if_its_sockets_are_one_short_path() {
        assert!(is_fit(Path::new("/tmp")) && is_fit(Path::new("/var/tmp/a folder")));
        let long = format!("/{}", "a".repeat(100));
        for directory in ["tmp", "/tmp/a,b", "/tmp/a'b", "/tmp/a ", &long] {
            assert!(!is_fit(Path::new(directory)), "{directory}");
        }
    }
}
