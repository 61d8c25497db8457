//! What belongs in an escrow: the one list of it, and where each secret lies on the platform.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::PathBuf,
};

use anyhow::Context as _;
use secrets::{Secret, make_folder, replace_file};
use topology::PLATFORM;

/// Files of the root CA's folder, with the modes that the steward gives them.
const ROOT: [(&str, u32); 2] = [("ca.pem", 0o644), ("ca-key.pem", 0o600)];
/// Not on the machine in the strict profile.
const UNSEAL_SHARE: (&str, u32) = ("vault-unseal-key", 0o400);

/// Where the steward has its secrets.
#[derive(clap::Args)]
pub struct Folders {
    /// The folder with a volume for each container, named like it.
    #[arg(long, default_value = "/state")]
    pub(super) state: PathBuf,
    /// The folder of the root CA.
    #[arg(long, default_value = "/certs")]
    pub(super) certs: PathBuf,
    /// The strict profile: people keep the shares that unseal Vault, and none lies here.
    #[arg(long, env = "RAMPART_UNSEAL_BY_PEOPLE", default_value_t = false)]
    pub(super) unseal_by_people: bool,
}

/// A secret of the list.
pub(super) struct Place {
    /// In the escrow: `certs/…` is in the folder of the CA, `state-steward/…` in the volume of that name.
    pub(super) name: String,
    path: PathBuf,
    mode: u32,
}

// === impl Folders ===

impl Folders {
    /// The list: the root CA, the share that unseals Vault, and every secret that the platform has made for itself.
    pub(super) fn places(&self) -> Vec<Place> {
        let share = (!self.unseal_by_people).then_some(UNSEAL_SHARE);
        let of_root = ROOT.into_iter().chain(share);
        let root =
            of_root.map(|(name, mode)| Place { name: format!("certs/{name}"), path: self.certs.join(name), mode });
        let folder = self.state.join(topology::name::STEWARD);
        let made: BTreeSet<&str> =
            PLATFORM.workloads().flat_map(|workload| workload.secrets).map(|(secret, _)| secret.path).collect();
        let made = made.into_iter().map(|path| Place {
            name: format!("state-steward/{path}"),
            path: folder.join(path),
            mode: 0o600,
        });
        root.chain(made).collect()
    }

    /// Every secret of the list, by name.
    pub(super) fn read_all(&self) -> anyhow::Result<BTreeMap<String, Secret>> {
        let mut secrets = BTreeMap::new();
        for place in self.places() {
            let secret = place.read()?.with_context(|| {
                format!(
                    "{} is not there: an escrow without it would be of no use; has the platform started?",
                    place.path.display()
                )
            })?;
            secrets.insert(place.name, secret);
        }
        Ok(secrets)
    }
}

// === impl Place ===

impl Place {
    /// The secret as it is now, if there is one.
    pub(super) fn read(&self) -> anyhow::Result<Option<Secret>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(Secret::new(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        }
    }

    /// Writes it where the steward looks for it.
    pub(super) fn write(&self, secret: &Secret) -> anyhow::Result<()> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.exists()) {
            make_folder(folder, 0o700)?;
        }
        Ok(replace_file(&self.path, secret.expose(), self.mode, None)?)
    }
}
