//! A certificate authority for tests: real keys and certificates, made on the spot.

use std::{fs, io::Write, net::Ipv4Addr, os::unix::fs::OpenOptionsExt, path::Path};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

const TRUST_DOMAIN: &str = "rampart.internal";
const EXPECT_PARAMETERS: &str = "the parameters are fixed and well-formed";

/// A root CA with its key.
pub struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf says; `Leaf::of` says what a service's certificate must, and each method spoils one thing.
#[derive(Clone, Debug)]
pub struct Leaf {
    dns_names: Vec<String>,
    uris: Vec<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

// === impl Ca ===

impl Ca {
    /// A root of the platform's trust domain.
    #[expect(clippy::new_without_default, reason = "every call makes another key; nothing about it is a default")]
    pub fn new() -> Self {
        Self::named("rampart test root")
    }

    /// Another root that issues the same names, and must not be trusted.
    pub fn foreign() -> Self {
        Self::named("foreign test root")
    }

    /// Writes `certificate.pem`, `key.pem` and `ca.pem` for one instance of a service, valid for a day.
    pub fn issue(&self, service: &str, instance: &str, directory: &Path) {
        self.issue_leaf(&Leaf::of(service, instance), directory);
    }

    /// The same for a leaf of any kind.
    pub fn issue_leaf(&self, leaf: &Leaf, directory: &Path) {
        let key = KeyPair::generate().expect(EXPECT_PARAMETERS);
        let certificate = leaf.params().signed_by(&key, &self.issuer).expect(EXPECT_PARAMETERS);
        fs::create_dir_all(directory).expect("the test's directory can be made");
        write(&directory.join("ca.pem"), &self.pem());
        write(&directory.join("key.pem"), &key.serialize_pem());
        write(&directory.join("certificate.pem"), &certificate.pem());
    }

    /// The root's certificate.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Replaces `ca.pem` by a bundle of several roots.
    pub fn write_bundle(roots: &[&Self], directory: &Path) {
        let bundle: String = roots.iter().map(|root| root.pem()).collect();
        write(&directory.join("ca.pem"), &bundle);
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
        params.not_after = OffsetDateTime::now_utc() + Duration::days(2);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect(EXPECT_PARAMETERS);
        let certificate = params.self_signed(&key).expect(EXPECT_PARAMETERS);
        Self { certificate, issuer: Issuer::new(params, key) }
    }
}

// === impl Leaf ===

impl Leaf {
    /// What a certificate of this instance must say.
    pub fn of(service: &str, instance: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            dns_names: vec![format!("{service}.{TRUST_DOMAIN}"), "localhost".to_owned()],
            uris: vec![format!("spiffe://{TRUST_DOMAIN}/svc/{service}/{instance}")],
            not_before: now - Duration::MINUTE,
            not_after: now + Duration::DAY,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    /// Valid from and until, in seconds from now.
    #[must_use]
    pub fn valid(mut self, from_s: i64, until_s: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + Duration::seconds(from_s);
        self.not_after = now + Duration::seconds(until_s);
        self
    }

    /// With these URI names instead.
    #[must_use]
    pub fn uris(mut self, uris: &[&str]) -> Self {
        self.uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        self
    }

    /// With these DNS names instead.
    #[must_use]
    pub fn dns_names(mut self, names: &[&str]) -> Self {
        self.dns_names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Good for servers only: of no use to a client.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.clone();
        let dns_names =
            self.dns_names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect(EXPECT_PARAMETERS)));
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect(EXPECT_PARAMETERS)));
        params.subject_alt_names = dns_names.chain(uris).collect();
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params
    }
}

/// Replaces a file in one step, readable by its owner only.
fn write(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .expect("the test's directory is writable");
    file.write_all(content.as_bytes()).expect("the test's disk has room");
    fs::rename(&beside, path).expect("a file in the same directory can be renamed");
}
