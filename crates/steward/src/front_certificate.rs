//! The owner's certificate for the front door: read from the owner's folder, and put into the volume of each container that answers clients.

use std::{
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bootstrap::{say, say_error};
use identity::FrontCertificate;
use rustix::fs::OFlags;
use secrets::{Secret, make_folder, replace_file};
use topology::Instance;

use crate::names::is_of_front;

/// How soon a renewed certificate is noticed.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// In a container's volume: chain and key, so that no reader sees one without the other.
const FILE: &str = "front/certificate-and-key.pem";
/// And its host names, one on a line, for who cannot read certificates.
const NAMES_FILE: &str = "front/names";
/// Of each of the owner's two files.
const FILE_BYTES_MAX: u64 = 32 * 1024;

/// Where the owner keeps chain and key, and how far they were brought.
pub(super) struct OwnersCertificate {
    files: Option<(PathBuf, PathBuf)>,
    written: Option<Secret>,
    /// A failure, and whether it was reported: a renewal replaces two files, and one pass may see the first alone.
    failure: Option<(String, bool)>,
}

// === impl OwnersCertificate ===

impl OwnersCertificate {
    /// Paths inside of `folder`; without any the front has its own CA's certificate alone.
    pub(super) fn new(folder: &Path, certificate: &str, key: &str) -> anyhow::Result<Self> {
        let (is_set, has_key) = (!certificate.is_empty(), !key.is_empty());
        ensure!(
            is_set == has_key,
            "RAMPART_FRONT_CERTIFICATE and RAMPART_FRONT_KEY belong together: set both, or none"
        );
        let files = is_set.then(|| (folder.join(certificate), folder.join(key)));
        Ok(Self { files, written: None, failure: None })
    }

    /// Brings what is new and good to the containers; what is not is reported at the second look, and the one before stays.
    pub(super) fn pass(&mut self, containers: &[Instance], state: &Path) {
        let Err(error) = self.bring(containers, state) else {
            self.failure = None;
            return;
        };
        let error = format!("{error:#}");
        match &mut self.failure {
            Some((before, is_reported)) if *before == error => {
                if !*is_reported {
                    say_error(&format!("the certificate of the front: {error}; the one in use stays"));
                    *is_reported = true;
                }
            }
            failure => *failure = Some((error, false)),
        }
    }

    fn bring(&mut self, containers: &[Instance], state: &Path) -> anyhow::Result<()> {
        let of_front = || containers.iter().filter(|container| is_of_front(container));
        let Some((certificate, key)) = &self.files else {
            return of_front().try_for_each(|container| remove(&state.join(container.name)));
        };
        let pair = Secret::new([read(certificate)?, b"\n".to_vec(), read(key)?].concat());
        if self.written.as_ref().is_some_and(|written| written.expose() == pair.expose()) {
            return Ok(());
        }
        let checked = FrontCertificate::from_pem(pair.expose())
            .with_context(|| format!("{} with {}", certificate.display(), key.display()))?;
        for container in of_front() {
            let (folder, group) = (state.join(container.name), Some(container.workload.user));
            make_folder(&folder.join("front"), 0o755)?;
            replace_file(&folder.join(FILE), pair.expose(), 0o640, group)?;
            replace_file(&folder.join(NAMES_FILE), lines(checked.names()).as_bytes(), 0o644, None)?;
        }
        say(&format!("the front has its owner's certificate, good until {}", checked.not_after()));
        self.written = Some(pair);
        Ok(())
    }
}

fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    for file in [NAMES_FILE, FILE] {
        let file = folder.join(file);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {} as user 10002, the steward", path.display());
    let mut content = Vec::new();
    // A pipe that is opened for reading waits for its writer, and everything else that the steward does would wait with it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).with_context(cannot)?;
    ensure!(file.metadata().with_context(cannot)?.is_file(), "{} is no file", path.display());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).with_context(cannot)?;
    ensure!(content.len() as u64 <= FILE_BYTES_MAX, "{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use testkit::ca::{Ca, Leaf};
    use topology::{PLATFORM, Workload};

    use super::*;

    fn containers(group: u32) -> Vec<Instance> {
        let of_group = |container: Instance| {
            let workload = Box::leak(Box::new(Workload { user: group, ..*container.workload }));
            Instance { workload, ..container }
        };
        PLATFORM.instances().map(of_group).collect()
    }

    fn issue(folder: &Path, name: &str) {
        Ca::new().issue_leaf(&Leaf::of("unused", "unused").uris(&[]).dns_names(&[name]).server_only(), folder);
    }

    /// A pipe that has no writer, in the place of either file, is a fault that is reported and no wait.
    #[test]
    fn a_pipe_is_no_certificate_and_no_key() {
        let (state, owners) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for file in ["certificate.pem", "key.pem"] {
            issue(owners.path(), "ml.example.org");
            let pipe = owners.path().join(file);
            fs::remove_file(&pipe).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
            let mut certificate = OwnersCertificate::new(owners.path(), "certificate.pem", "key.pem").unwrap();
            certificate.pass(&[], state.path());
            let (failure, _) = certificate.failure.unwrap();
            assert!(failure.contains(file) && failure.ends_with("is no file"), "{failure}");
            fs::remove_file(&pipe).unwrap();
        }
    }

    #[test]
    fn a_good_pair_reaches_each_container_of_the_front_and_a_bad_one_none() {
        identity::install_crypto_providers().unwrap();
        let (state, owners) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let containers = containers(fs::metadata(state.path()).unwrap().gid());
        let mut certificate = OwnersCertificate::new(owners.path(), "certificate.pem", "key.pem").unwrap();
        let names = |of: &str| fs::read_to_string(state.path().join(of).join(NAMES_FILE)).ok();
        certificate.pass(&containers, state.path());
        assert_eq!(names("balancer-a"), None);

        issue(owners.path(), "ml.example.org");
        certificate.pass(&containers, state.path());
        for container in ["balancer-a", "balancer-b", "edge"] {
            assert_eq!(names(container).as_deref(), Some("ml.example.org\n"), "{container}");
            let file = state.path().join(container).join(FILE);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
            FrontCertificate::from_pem(&fs::read(file).unwrap()).unwrap();
        }
        assert_eq!(names("gateway-a"), None);

        // Half of a renewal: the chain is new, the key is not yet.
        let next = tempfile::tempdir().unwrap();
        issue(next.path(), "new.example.org");
        fs::copy(next.path().join("certificate.pem"), owners.path().join("certificate.pem")).unwrap();
        certificate.pass(&containers, state.path());
        assert!(
            matches!(&certificate.failure, Some((error, false)) if error.contains("not that of the first certificate"))
        );
        certificate.pass(&containers, state.path());
        assert!(matches!(certificate.failure, Some((_, true))));
        assert_eq!(names("balancer-a").as_deref(), Some("ml.example.org\n"));
        fs::copy(next.path().join("key.pem"), owners.path().join("key.pem")).unwrap();
        certificate.pass(&containers, state.path());
        assert_eq!(names("balancer-a").as_deref(), Some("new.example.org\n"));

        OwnersCertificate::new(owners.path(), "", "").unwrap().pass(&containers, state.path());
        assert_eq!((names("balancer-a"), names("edge")), (None, None));
        assert!(OwnersCertificate::new(owners.path(), "certificate.pem", "").is_err());
    }
}
