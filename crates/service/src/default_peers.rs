//! Who may call a service, as the map of the platform has it: the lowest layer of its configuration.

use std::collections::BTreeMap;

type Rules = BTreeMap<&'static str, Vec<&'static str>>;

/// `admin.peers`, and `listen.peers` where the service has such a listener; nothing for a service that is not on the map.
pub(crate) fn for_service(name: &str) -> BTreeMap<&'static str, BTreeMap<&'static str, Rules>> {
    let Some(service) = topology::service(name) else { return BTreeMap::new() };
    let own: Rules = service.peers.iter().map(|(path, callers)| (*path, callers.to_vec())).collect();
    let listeners = [("admin", service.admin_peers().into()), ("listen", own)];
    let lists = listeners.into_iter().filter(|(_, rules)| !rules.is_empty());
    lists.map(|(listener, rules)| (listener, BTreeMap::from([("peers", rules)]))).collect()
}
