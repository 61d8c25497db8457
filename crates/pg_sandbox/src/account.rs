//! The account that the server runs as.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use crate::{ClusterError, io_error};

/// The caller's own account, or, for root, an unprivileged one.
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

    /// User and group id, if other than the caller's.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.0
    }

    pub(crate) fn apply(self, command: &mut tokio::process::Command) {
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
    }

    /// A directory that all other accounts are kept out of.
    pub(crate) fn chown(self, directory: &Path) -> Result<(), ClusterError> {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(io_error(directory))?;
        self.own_file(directory)
    }

    /// A program that may not get to the directory only says "Permission denied", and not of which. Asked after the
    /// failure and not before: an access control list may open what the mode closes.
    pub(crate) fn explain_permission(self, directory: &Path, error: ClusterError) -> ClusterError {
        let Some((user, group)) = self.0 else { return error };
        match first_closed_ancestor(directory, user, group) {
            Ok(Some(path)) => ClusterError::Impassable { path, user },
            Ok(None) | Err(_) => error,
        }
    }

    pub(crate) fn own_file(self, file: &Path) -> Result<(), ClusterError> {
        match self.0 {
            Some((user, group)) => chown(file, Some(user), Some(group)).map_err(io_error(file)),
            None => Ok(()),
        }
    }
}

/// The outermost directory above this one that a user of one group may not pass through.
pub(crate) fn first_closed_ancestor(directory: &Path, user: u32, group: u32) -> io::Result<Option<PathBuf>> {
    let directory = fs::canonicalize(directory)?;
    let mut outermost = None;
    for ancestor in directory.ancestors().skip(1) {
        let metadata = fs::metadata(ancestor)?;
        let needed = match (metadata.uid() == user, metadata.gid() == group) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if metadata.mode() & needed == 0 {
            outermost = Some(ancestor.to_owned());
        }
    }
    Ok(outermost)
}

/// User and group id of a name in the text of /etc/passwd (passwd(5)).
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An account that is neither owner nor of the group needs the last bit, on every directory of the way.
    #[test]
    fn the_outermost_closed_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (outer, inner) = (directory.path().join("outer"), directory.path().join("outer/inner"));
        let cluster = inner.join("cluster");
        fs::create_dir_all(&cluster).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (user, group) = (fs::metadata(&outer).unwrap().uid() + 1, fs::metadata(&outer).unwrap().gid() + 1);
        let found =
            || first_closed_ancestor(&cluster, user, group).unwrap().map(|path| path.file_name().unwrap().to_owned());
        set(directory.path(), 0o711);
        set(&outer, 0o700);
        set(&inner, 0o700);
        assert_eq!(found(), Some("outer".into()));
        set(&outer, 0o711);
        assert_eq!(found(), Some("inner".into()));
        set(&inner, 0o711);
        assert_eq!(found(), None);
        set(&outer, 0o710);
        assert_eq!(first_closed_ancestor(&cluster, user, group - 1).unwrap(), None);
    }
}
