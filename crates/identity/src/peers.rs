//! Which services may call what: the peer list of a server, longest prefix first, deny by default.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{PeerName, name::is_segment};

/// Path prefixes, in whole segments, and the services that may call below them.
///
/// The longest prefix that matches decides alone, so `"/" = ["operator"]` does not open what
/// `"/admin" = ["gateway"]` closes. A path that no prefix matches is closed.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "BTreeMap<String, BTreeSet<String>>")]
pub struct PeerList {
    /// Sorted, longest prefix first; without the closing slash, so that the root is the empty string.
    rules: Vec<(String, BTreeSet<String>)>,
}

/// What is wrong with a peer list. There is no list that admits all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerListError {
    /// No service could call.
    #[error("peer list is empty: name the path prefixes and the services that may call them")]
    Empty,
    /// A prefix that no service may call needs no entry.
    #[error("{0:?} names no services")]
    NoServices(String),
    /// Prefixes are absolute and end without a slash, except for the root.
    #[error("{0:?} is not a path prefix: it begins with a slash, ends without one and has no empty or dot segments")]
    Prefix(String),
    /// Not the name of a service.
    #[error("{0:?} is not the name of a service: lower case letters, digits and hyphens")]
    Service(String),
}

// === impl PeerList ===

impl PeerList {
    /// A list from prefixes and services.
    pub fn new(rules: BTreeMap<String, BTreeSet<String>>) -> Result<Self, PeerListError> {
        if rules.is_empty() {
            return Err(PeerListError::Empty);
        }
        for (prefix, services) in &rules {
            if !is_prefix(prefix) {
                return Err(PeerListError::Prefix(prefix.clone()));
            }
            if services.is_empty() {
                return Err(PeerListError::NoServices(prefix.clone()));
            }
            if let Some(service) = services.iter().find(|service| !is_segment(service)) {
                return Err(PeerListError::Service(service.clone()));
            }
        }
        let mut rules: Vec<_> =
            rules.into_iter().map(|(prefix, services)| (prefix.trim_end_matches('/').to_owned(), services)).collect();
        rules.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(Self { rules })
    }

    /// Whether this peer may call this path. The path is taken as sent, as the router takes it.
    pub fn allows(&self, path: &str, peer: &PeerName) -> bool {
        is_plain(path)
            && self
                .rules
                .iter()
                .find(|(prefix, _)| is_below(path, prefix))
                .is_some_and(|(_, services)| services.contains(&peer.service))
    }

    /// Every service that may call anything: those that may complete a handshake.
    pub fn names(&self) -> BTreeSet<String> {
        self.rules.iter().flat_map(|(_, services)| services.iter().cloned()).collect()
    }
}

impl TryFrom<BTreeMap<String, BTreeSet<String>>> for PeerList {
    type Error = PeerListError;

    fn try_from(rules: BTreeMap<String, BTreeSet<String>>) -> Result<Self, Self::Error> {
        Self::new(rules)
    }
}

fn is_prefix(prefix: &str) -> bool {
    prefix == "/" || (is_plain(prefix) && !prefix.ends_with('/'))
}

/// Absolute, without segments that a router and a handler might read differently.
fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let (parents, last) = match rest.rsplit_once('/') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, rest),
    };
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let mut parents = parents.into_iter().flat_map(|parents| parents.split('/'));
    !is_dots(last) && parents.all(|segment| !segment.is_empty() && !is_dots(segment))
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[(&str, &[&str])]) -> Result<PeerList, PeerListError> {
        PeerList::new(
            rules
                .iter()
                .map(|(prefix, services)| {
                    ((*prefix).to_owned(), services.iter().map(|service| (*service).to_owned()).collect())
                })
                .collect(),
        )
    }

    fn peer(service: &str) -> PeerName {
        PeerName { service: service.into(), instance: format!("{service}-1") }
    }

    #[test]
    fn longest_prefix_in_whole_segments_decides() {
        let peers = list(&[("/", &["operator"]), ("/api", &["balancer"]), ("/api/admin", &["gateway"])]).unwrap();
        for (path, service, allowed) in [
            ("/", "operator", true),
            ("/metrics", "operator", true),
            ("/metrics", "balancer", false),
            ("/api", "balancer", true),
            ("/api/", "balancer", true),
            ("/api/x/y", "balancer", true),
            ("/api/x", "operator", false),
            ("/apis", "balancer", false),
            ("/apis", "operator", true),
            ("/api/admin", "balancer", false),
            ("/api/admin/x", "gateway", true),
            ("/api/administration", "balancer", true),
        ] {
            assert_eq!(peers.allows(path, &peer(service)), allowed, "{service} on {path}");
        }
    }

    #[test]
    fn a_path_that_no_prefix_matches_is_closed() {
        let peers = list(&[("/api", &["balancer"])]).unwrap();
        for path in ["/", "", "*", "/v2", "api", "/API"] {
            assert!(!peers.allows(path, &peer("balancer")), "{path} is open");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_closed() {
        let peers = list(&[("/", &["balancer"])]).unwrap();
        for path in ["//", "//api", "/api//x", "/./api", "/../api", "/api/..", "/api/../admin", "/.", "/..", "/a/./b"] {
            assert!(!peers.allows(path, &peer("balancer")), "{path} is open");
        }
        for path in ["/", "/api", "/api/", "/.well-known/jwks.json", "/a..b/c"] {
            assert!(peers.allows(path, &peer("balancer")), "{path} is closed");
        }
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert_eq!(list(&[]).unwrap_err(), PeerListError::Empty);
        assert_eq!(list(&[("/", &[])]).unwrap_err(), PeerListError::NoServices("/".into()));
        assert_eq!(list(&[("api", &["a"])]).unwrap_err(), PeerListError::Prefix("api".into()));
        assert_eq!(list(&[("/api/", &["a"])]).unwrap_err(), PeerListError::Prefix("/api/".into()));
        assert_eq!(list(&[("/", &["*"])]).unwrap_err(), PeerListError::Service("*".into()));
    }

    #[test]
    fn names_are_those_of_all_prefixes() {
        let peers = list(&[("/", &["operator"]), ("/api", &["balancer", "operator"])]).unwrap();
        assert_eq!(peers.names().into_iter().collect::<Vec<_>>(), ["balancer", "operator"]);
    }
}
