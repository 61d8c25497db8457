//! Every container of the map, with what the steward needs of it.

use identity::{PeerName, dns_name};
use time::Duration;
use topology::{Instance, PLATFORM, Party, Secret};

/// One container.
#[derive(Clone, Copy)]
pub(super) struct Container {
    /// Its name in the compose file; also the instance in its certificate.
    pub(super) name: &'static str,
    /// The service in its certificate, which peer lists name.
    pub(super) service: &'static str,
    /// The group that its process runs as.
    pub(super) group: u32,
    /// What it may ask of Vault.
    pub(super) access: Access,
    /// How long a certificate lives that the steward signs for it.
    pub(super) lifetime: Duration,
    /// Names that clients dial, besides its own.
    pub(super) dns_names: &'static [&'static str],
    /// The common name in its certificate, where that matters.
    pub(super) common_name: Option<&'static str>,
    /// Secrets in the steward's folder, and the file of each in the container.
    pub(super) secrets: &'static [(Secret, &'static str)],
}

/// What a container may ask of Vault, with a login that the steward renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: the steward signs its certificate.
    None,
    /// A service: its certificate, and its password of the database if it has one.
    Service,
    /// People's tools: to read secrets of `secret/ml`.
    Tools,
}

/// All containers.
pub(super) fn all() -> Vec<Container> {
    PLATFORM.instances().map(Container::of).collect()
}

// === impl Container ===

impl Container {
    fn of(Instance { name, party }: Instance) -> Self {
        let (access, days, common_name) = match party {
            Party::Service(_) => (Access::Service, 1, None),
            Party::ThirdParty(it) => {
                let access = if it.reads_secrets { Access::Tools } else { Access::None };
                (access, it.certificate_days, it.common_name)
            }
        };
        let (workload, lifetime) = (party.workload(), Duration::days(days.into()));
        let (service, group, dns_names, secrets) = (workload.name, workload.user, workload.dns_names, workload.secrets);
        Self { name, service, group, access, lifetime, dns_names, common_name, secrets }
    }

    /// Every DNS name and address in its certificate.
    pub(super) fn all_names(&self) -> Vec<String> {
        let own = [dns_name(self.service), self.name.to_owned()];
        own.into_iter().chain(self.dns_names.iter().map(|name| (*name).to_owned())).collect()
    }

    /// The name in its certificate.
    pub(super) fn peer_name(&self) -> PeerName {
        PeerName { service: self.service.into(), instance: self.name.into() }
    }
}
