//! The name of a peer inside the trust domain, as its certificate says.

use std::{fmt, str::FromStr};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

use crate::NameError;

/// The SPIFFE trust domain, and the DNS suffix of server names.
pub const TRUST_DOMAIN: &str = "rampart.internal";

const SEGMENT_LENGTH_MAX: usize = 63;

/// Service and instance of a peer, e.g. `serving` and `serving-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// The service: what peer lists name.
    pub service: String,
    /// Which copy of the service.
    pub instance: String,
}

/// The DNS name that every certificate of a service carries.
pub fn dns_name(service: &str) -> String {
    format!("{service}.{TRUST_DOMAIN}")
}

/// When a certificate ends.
pub fn certificate_not_after(der: &[u8]) -> Result<OffsetDateTime, NameError> {
    Ok(parse(der)?.validity().not_after.to_datetime())
}

/// When the first certificate of a PEM file ends.
pub fn certificate_pem_not_after(pem: &[u8]) -> Result<OffsetDateTime, NameError> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| NameError::Malformed)?;
    certificate_not_after(&der)
}

/// From when until when the first certificate of a PEM file is valid.
pub fn certificate_pem_validity(pem: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), NameError> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| NameError::Malformed)?;
    validity(&der)
}

/// From when until when a certificate is valid.
pub(crate) fn validity(der: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), NameError> {
    let certificate = parse(der)?;
    Ok((certificate.validity().not_before.to_datetime(), certificate.validity().not_after.to_datetime()))
}

// === impl PeerName ===

impl PeerName {
    /// The one URI name of a certificate. Does not check the signature: verify first.
    pub fn from_certificate(der: &[u8]) -> Result<Self, NameError> {
        let certificate = parse(der)?;
        let names = certificate.subject_alternative_name().map_err(|_| NameError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => uri.parse(),
            other => Err(NameError::Count(other.len())),
        }
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        parse_uri(uri).ok_or_else(|| NameError::Form(uri.chars().take(200).collect()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{TRUST_DOMAIN}/svc/{}/{}", self.service, self.instance)
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, NameError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| NameError::Malformed)?;
    if rest.is_empty() { Ok(certificate) } else { Err(NameError::Malformed) }
}

fn parse_uri(uri: &str) -> Option<PeerName> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(TRUST_DOMAIN)?.strip_prefix("/svc/")?;
    let (service, instance) = path.split_once('/')?;
    (is_segment(service) && is_segment(instance))
        .then(|| PeerName { service: service.to_owned(), instance: instance.to_owned() })
}

/// Lower case, digits and hyphens, beginning with a letter or digit: nothing that a path or a log could misread.
pub(crate) fn is_segment(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= SEGMENT_LENGTH_MAX && text.bytes().all(is_inner) && !text.is_empty() && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_way_to_text_and_back() {
        let name = PeerName { service: "serving".into(), instance: "serving-1".into() };
        assert_eq!(name.to_string(), "spiffe://rampart.internal/svc/serving/serving-1");
        assert_eq!(name.to_string().parse::<PeerName>().unwrap(), name);
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        for uri in [
            "",
            "spiffe://rampart.internal",
            "spiffe://rampart.internal/svc/serving",
            "spiffe://rampart.internal/svc/serving/",
            "spiffe://rampart.internal/svc//serving-1",
            "spiffe://rampart.internal/svc/serving/a/b",
            "spiffe://rampart.internal/svc/serving/a?b",
            "spiffe://rampart.internal/svc/serving/-a",
            "spiffe://rampart.internal/svc/Serving/a",
            "spiffe://rampart.internal.evil.example/svc/serving/a",
            "spiffe://evil.example/svc/serving/a",
            "https://rampart.internal/svc/serving/a",
            "SPIFFE://rampart.internal/svc/serving/a",
        ] {
            assert!(uri.parse::<PeerName>().is_err(), "{uri} was taken for a name");
        }
    }
}
