//! The names in a container's certificate.

use identity::{PeerName, dns_name};
use topology::Instance;

/// The service and the instance.
pub(super) fn peer_name(container: &Instance) -> PeerName {
    PeerName { service: container.workload.name.into(), instance: container.name.into() }
}

/// Every DNS name and address.
pub(super) fn dns_names(container: &Instance) -> Vec<String> {
    let own = [dns_name(container.workload.name), container.name.to_owned()];
    own.into_iter().chain(container.workload.dns_names.iter().map(|name| (*name).to_owned())).collect()
}
