//! Where PostgreSQL's programs are: Debian keeps the server's out of the path.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::ClusterError;

/// The directory of `initdb`, `postgres`, `psql`, `pg_dump` of one PostgreSQL version.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

// === impl Binaries ===

impl Binaries {
    /// The newest under /usr/lib/postgresql, or what `pg_config` says.
    ///
    /// # Errors
    /// There is none.
    pub async fn find() -> Result<Self, ClusterError> {
        let newest = versions(Path::new("/usr/lib/postgresql")).into_iter().map(|(_, path)| path.join("bin"));
        for directory in newest {
            if directory.join("initdb").exists() {
                return Ok(Self(directory));
            }
        }
        let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().await;
        let directory = output.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        directory.filter(|path| path.join("initdb").exists()).map(Self).ok_or(ClusterError::NotInstalled)
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Major versions installed, newest first.
fn versions(root: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}
