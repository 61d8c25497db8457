//! A certificate that the platform's owner brings for the front door, of a public CA or a company's, beside the one of our own CA.

use std::{fmt, sync::Arc};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use crate::{TRUST_DOMAIN, crypto_provider};

/// A chain and its key, which clients accept by CAs of their own.
pub struct FrontCertificate {
    pub(crate) certified: Arc<CertifiedKey>,
    names: Vec<String>,
    has_address: bool,
    not_after: OffsetDateTime,
}

/// Why a certificate cannot be the front's.
#[derive(Debug, thiserror::Error)]
pub enum FrontCertificateError {
    /// No certificate or no key is in it.
    #[error("there is no {0} in PEM form in it; a key must not be encrypted")]
    Pem(&'static str),
    /// The key is of no use, or is another certificate's.
    #[error("the key is not that of the first certificate: {0}")]
    Pair(rustls::Error),
    /// The certificate cannot be read.
    #[error("the first certificate cannot be parsed")]
    Malformed,
    /// Its time is over, or has not come.
    #[error("the certificate is good from {from} to {until}, and not now")]
    NotNow {
        /// Its begin.
        from: OffsetDateTime,
        /// Its end.
        until: OffsetDateTime,
    },
    /// Clients look at the subject alternative names alone (RFC 9525, section 6.3).
    #[error("the certificate has no host name and no address among its subject alternative names")]
    NoNames,
    /// The own CA alone names services.
    #[error("the certificate names {0}, which is a name inside of the platform")]
    Internal(String),
}

// === impl FrontCertificate ===

impl FrontCertificate {
    /// Of PEM text: the leaf, the chain behind it, and the key anywhere.
    pub fn from_pem(pem: &[u8]) -> Result<Self, FrontCertificateError> {
        use FrontCertificateError::{Internal, NoNames, NotNow, Pair, Pem};
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| Pem("certificate"))?;
        let leaf = chain.first().ok_or(Pem("certificate"))?.clone();
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Pem("private key"))?;
        let certified = Arc::new(CertifiedKey::from_der(chain, key, &crypto_provider()).map_err(Pair)?);
        let (_, leaf) = X509Certificate::from_der(&leaf).map_err(|_| FrontCertificateError::Malformed)?;
        let (not_before, not_after) =
            (leaf.validity().not_before.to_datetime(), leaf.validity().not_after.to_datetime());
        if !(not_before..not_after).contains(&OffsetDateTime::now_utc()) {
            return Err(NotNow { from: not_before, until: not_after });
        }
        let alternatives = leaf.subject_alternative_name().map_err(|_| FrontCertificateError::Malformed)?;
        let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
        let (mut names, mut has_address) = (Vec::new(), false);
        for name in alternatives {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(_) => has_address = true,
                _ => {}
            }
        }
        if names.is_empty() && !has_address {
            return Err(NoNames);
        }
        match names.iter().find(|name| is_internal(name)) {
            Some(name) => Err(Internal(name.clone())),
            None => Ok(Self { certified, names, has_address, not_after }),
        }
    }

    /// Its host names in lower case; `*.` stands for one label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it ends.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether a client that asks for this host accepts it. A client that dials an address asks for none (RFC 6066, section 3):
    /// it gets this certificate when there is any address in it.
    pub fn is_for(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return self.has_address };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let domain = host.split_once('.').map(|(_, domain)| domain);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(of) => domain == Some(of),
            None => *name == host,
        })
    }
}

/// Without its key.
impl fmt::Debug for FrontCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontCertificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn is_internal(name: &str) -> bool {
    let name = name.trim_start_matches("*.");
    name == TRUST_DOMAIN || name.strip_suffix(TRUST_DOMAIN).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use testkit::ca::{Ca, Leaf};

    use super::*;

    fn pem(leaf: &Leaf) -> String {
        let directory = tempfile::tempdir().unwrap();
        Ca::new().issue_leaf(leaf, directory.path());
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        read("certificate.pem") + &read("key.pem")
    }

    fn leaf(names: &[&str]) -> Leaf {
        Leaf::of("unused", "unused").uris(&[]).dns_names(names).server_only()
    }

    #[test]
    fn a_certificate_is_for_its_names() {
        let certificate =
            FrontCertificate::from_pem(pem(&leaf(&["ML.example.org", "*.a.example.org"])).as_bytes()).unwrap();
        let is_for = |host: &str| certificate.is_for(Some(host));
        for host in ["ml.example.org", "ML.EXAMPLE.ORG", "ml.example.org.", "x.a.example.org"] {
            assert!(is_for(host), "{host}");
        }
        for host in ["example.org", "a.example.org", "x.y.a.example.org", "nml.example.org", "localhost"] {
            assert!(!is_for(host), "{host}");
        }
        // The test's leaves have the address of the loopback.
        assert!(certificate.is_for(None));
    }

    #[test]
    fn what_the_front_cannot_present_is_refused_with_its_reason() {
        let good = pem(&leaf(&["ml.example.org"]));
        let (chain, key) = good.split_at(good.find("-----BEGIN PRIVATE KEY").unwrap());
        let other = pem(&leaf(&["ml.example.org"]));
        let (other_chain, _) = other.split_at(other.find("-----BEGIN PRIVATE KEY").unwrap());
        let cases = [
            (String::new(), "no certificate"),
            (key.to_owned(), "no certificate"),
            (chain.to_owned(), "no private key"),
            (
                chain.to_owned() + "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "no private key",
            ),
            (other_chain.to_owned() + key, "not that of the first certificate"),
            (pem(&leaf(&["ml.example.org"]).valid(-120, -60)), "and not now"),
            (pem(&leaf(&["ml.example.org"]).valid(60, 120)), "and not now"),
            (pem(&leaf(&["gateway.rampart.internal"])), "gateway.rampart.internal"),
            (pem(&leaf(&["*.rampart.internal"])), "*.rampart.internal"),
        ];
        for (pem, reason) in cases {
            let error = FrontCertificate::from_pem(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
