//! Cedar's principals; and that the map lets exactly those callers reach a call that a policy permits it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use identity::{PeerList, PeerName};
use policy::{Action, Caller, DeclaredRoute, Policy, Subject};
use topology::{Map, SERVICES, name};

use crate::checkout::{Checkout, between};

const FOLDER: &str = "security/rbac-policies";

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    let file = format!("{FOLDER}/rampart.cedarschema");
    let text = checkout.text(&file);
    let principals = between(&text, "\nentity Service enum [", "]").split(", ").map(|name| name.trim_matches('"'));
    checkout.same(&file, "Service", map.callers, principals);

    let file = format!("{FOLDER}/services.cedar");
    let text = checkout.text(&file);
    let named = text.split("Service::\"").skip(1).filter_map(|rest| rest.split('"').next());
    checkout.same(&file, "services", map.callers, named);

    let file = format!("{FOLDER}/matrix.txt");
    let text = checkout.text(&file);
    let columns = text.lines().next().unwrap_or_default().split_whitespace();
    checkout.same(&file, "columns", map.callers, columns.filter_map(|column| column.strip_prefix("service:")));

    let file = "crates/policy/tests/it/table.rs";
    let text = checkout.text(file);
    let rows = between(&text, "\nconst CALLS:", "];").split('(');
    let callers = rows.filter_map(|row| row.trim_start().strip_prefix('"')?.split('"').next());
    checkout.same(file, "CALLS", map.callers, callers);
}

/// A listener: its peer list, and what is called there.
fn listeners() -> Vec<(PeerList, Vec<DeclaredRoute>)> {
    let declared = |service: &str| match service {
        name::GATEWAY => gateway::declared_routes(),
        name::SERVING => serving::declared_routes(),
        name::SLA => sla::declared_routes(),
        name::BACKUP => backup::declared_routes(),
        _ => panic!("the routes of {service} are not compared: name them here"),
    };
    let mut listeners = Vec::new();
    for service in SERVICES {
        let own = service.peers.iter().map(|(path, callers)| (*path, callers.to_vec()));
        // The front door is for clients and has no list.
        if !service.peers.is_empty() {
            listeners.push((list(own), declared(service.workload.name)));
        }
        listeners.push((list(service.admin_peers()), service::declared_routes()));
    }
    listeners
}

fn list<'a>(rules: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>) -> PeerList {
    let owned =
        |(path, callers): (&str, Vec<&str>)| (path.to_owned(), callers.into_iter().map(str::to_owned).collect());
    PeerList::new(rules.into_iter().map(owned).collect::<BTreeMap<String, BTreeSet<String>>>()).unwrap()
}

/// Of a path that the map opens to a service and no policy does, every call would be refused; and a right that the map gives
/// no way to use is one too many.
#[test]
fn what_the_map_lets_a_service_call_a_policy_permits_and_the_other_way_round() {
    let policy = Policy::embedded().unwrap();
    let permits = |caller: &str, action| policy.allows(Subject::Service(caller), action);
    let mut used: HashSet<(&str, Action)> = HashSet::new();
    let mut calls = HashSet::new();
    for (peers, declared) in listeners() {
        for DeclaredRoute { path, action, .. } in declared.into_iter().filter(|route| route.caller == Caller::Peer) {
            calls.insert(action);
            for caller in topology::CALLERS {
                let peer = PeerName { service: caller.to_owned(), instance: format!("{caller}-1") };
                if peers.allows(&path, &peer) {
                    assert!(permits(caller, action), "{caller} reaches {path}, and no policy permits it {action}");
                    used.insert((caller, action));
                }
            }
        }
    }
    assert!(calls.len() > 6, "the calls between services are found: {calls:?}");
    for action in calls {
        for caller in topology::CALLERS {
            let is_used = used.contains(&(caller, action));
            assert_eq!(
                permits(caller, action),
                is_used,
                "a policy permits {caller} {action}, and the map opens no path"
            );
        }
    }
}
