//! Names of the front door that only this platform's clients use: `RAMPART_FRONT_NAMES`.

use std::{net::IpAddr, str::FromStr};

use identity::TRUST_DOMAIN;
use topology::{BALANCER, PLATFORM};

/// More would make each handshake longer for everybody.
const NAMES_MAX: usize = 32;
/// Bytes of a host name (RFC 1035, section 2.3.4), and of one label of it.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Host names and addresses under which clients reach the front door, beside those of the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontNames(Vec<String>);

// === impl FrontNames ===

impl FrontNames {
    /// Each of them, in the form in which a certificate has it.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for FrontNames {
    type Err = String;

    /// Names between commas or spaces. Refused is what a peer would take for another service of the platform.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut names: Vec<String> = Vec::new();
        for name in text.split([',', ' ']).filter(|name| !name.is_empty()) {
            let name = checked(name)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.len() > NAMES_MAX {
            return Err(format!("{} names are more than {NAMES_MAX}", names.len()));
        }
        Ok(Self(names))
    }
}

fn checked(name: &str) -> Result<String, String> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.starts_with("*.") {
        return Err(format!("{name} stands for any host: write each name, or bring a certificate of your own"));
    }
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(is_label) {
        return Err(format!("{name:?} is neither a host name nor an address"));
    }
    // A host whose last label is a number would be read as an address (RFC 3986, section 3.2.2).
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{name:?} is neither a host name nor an address"));
    }
    if !is_known(&name) && is_internal(&name) {
        return Err(format!("{name} is a name inside of the platform, and no client's"));
    }
    Ok(name)
}

/// Whether the front has it anyway.
fn is_known(name: &str) -> bool {
    BALANCER.workload.dns_names.contains(&name)
}

/// Whether services find one another by it.
fn is_internal(name: &str) -> bool {
    name == TRUST_DOMAIN
        || name.strip_suffix(TRUST_DOMAIN).is_some_and(|rest| rest.ends_with('.'))
        || PLATFORM
            .instances()
            .any(|one| name == one.name || name == one.workload.name || one.workload.dns_names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        text.parse().map(|FrontNames(names)| names)
    }

    #[test]
    fn names_and_addresses_are_taken_in_the_form_of_certificates() {
        assert_eq!(names("").unwrap(), [""; 0]);
        let expected = ["ml.example.org", "192.0.2.7", "2001:db8::1", "localhost"];
        assert_eq!(names("ML.example.org.,192.0.2.7  2001:0db8:0::1, localhost,ml.example.org").unwrap(), expected);
    }

    #[test]
    fn what_is_no_name_or_that_of_a_service_is_refused() {
        let long = format!("{}.example.org", "a".repeat(64));
        let refused = [
            "ml_example",
            "-a.example.org",
            "a..b",
            "https://ml.example.org",
            "ml.example.org:8095",
            "192.0.2.256",
            "1.2.3",
            &long,
            "*.example.org",
            "gateway.rampart.internal",
            "rampart.internal",
            "gateway",
            "gateway-a",
            "vault",
            "etcd-client",
            "minio",
        ];
        for name in refused {
            assert!(names(name).is_err(), "{name}");
        }
        let many: Vec<String> = (0..33).map(|number| format!("host-{number}.example.org")).collect();
        assert!(names(&many.join(",")).is_err());
    }
}
