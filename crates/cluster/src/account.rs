//! Whom the server runs as.

use std::{fs, os::unix::fs::chown, path::Path};

use crate::{ClusterError, io_error, make_private};

/// Ourselves, or, when we are root, somebody less.
#[derive(Clone, Copy, Debug)]
pub struct Account(Option<(u32, u32)>);

// === impl Account ===

impl Account {
    pub(crate) fn for_server() -> Result<Self, ClusterError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(io_error(Path::new("/etc/passwd")))?;
        let ids = ["postgres", "nobody"].iter().find_map(|name| ids_of(&passwd, name));
        ids.map(|ids| Self(Some(ids))).ok_or(ClusterError::NoAccount)
    }

    /// User and group id, if other than ours.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.0
    }

    pub(crate) fn apply(self, command: &mut tokio::process::Command) {
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
    }

    pub(crate) fn own(self, directory: &Path) -> Result<(), ClusterError> {
        make_private(directory, self.0)
    }

    pub(crate) fn own_file(self, file: &Path) -> Result<(), ClusterError> {
        match self.0 {
            Some((user, group)) => chown(file, Some(user), Some(group)).map_err(io_error(file)),
            None => Ok(()),
        }
    }
}

/// User and group id of a name in the text of /etc/passwd (passwd(5)).
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
