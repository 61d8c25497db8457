//! The names in a container's certificate.

use identity::{PeerName, dns_name};
use topology::{Instance, name};

use crate::front_names::FrontNames;

/// The service and the instance.
pub(super) fn peer_name(container: &Instance) -> PeerName {
    PeerName { service: container.workload.name.into(), instance: container.name.into() }
}

/// Every DNS name and address: those of the map, and at the front door those that this platform's clients use.
pub(super) fn dns_names(container: &Instance, front_names: &FrontNames) -> Vec<String> {
    let mut names = vec![dns_name(container.workload.name), container.name.to_owned()];
    names.extend(container.workload.dns_names.iter().map(|name| (*name).to_owned()));
    if is_of_front(container) {
        let more: Vec<&str> = front_names.iter().filter(|name| names.iter().all(|known| known != name)).collect();
        names.extend(more.into_iter().map(ToOwned::to_owned).collect::<Vec<_>>());
    }
    names
}

/// Whether it answers clients under the front's names: a balancer or the second edge.
pub(super) fn is_of_front(container: &Instance) -> bool {
    [name::BALANCER, name::EDGE].contains(&container.workload.name)
}
