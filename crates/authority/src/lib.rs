#![doc = include_str!("../README.md")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use identity::{NameError, PeerName, TRUST_DOMAIN};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use secrets::{WriteError, replace_file};
use time::{Duration, OffsetDateTime};

const ROOT_LIFETIME: Duration = Duration::days(3650);
/// Clocks differ a little, and a certificate from the future is refused.
const BACKDATE: Duration = Duration::minutes(1);

/// Why a certificate could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate itself.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A root whose key is gone. Peers that trust this root would not trust another one in its place.
    #[error("{certificate} is there and its key {key} is not; bring the key back, or remove both to begin anew")]
    KeyMissing {
        /// The root.
        certificate: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// A file of the root that is there and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The root is of the future.
    #[error(
        "{certificate} is good from {from} on, and now it is earlier: the clock was ahead when it was made, or is behind now. \
         Set the clock; or, if nothing in its folder is needed, remove the folder, and a new root is made that clients must be given"
    )]
    NotYet {
        /// Its certificate.
        certificate: PathBuf,
        /// When its time begins.
        from: OffsetDateTime,
    },
    /// The root's time is over.
    #[error("{certificate} ended at {until}, or the clock is ahead: set the clock, or make a new root")]
    Ended {
        /// Its certificate.
        certificate: PathBuf,
        /// When its time ended.
        until: OffsetDateTime,
    },
    /// The root's certificate cannot be read.
    #[error("the root's certificate cannot be read")]
    Unreadable(#[from] NameError),
    /// A file or folder.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A root CA with its key in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a leaf is for.
#[derive(Clone, Debug)]
pub struct Leaf {
    name: PeerName,
    lifetime: Duration,
    not_before: OffsetDateTime,
    /// The service, unless it is changed: some clients read nothing else of a certificate.
    pub common_name: String,
    /// Host names and IP addresses; the service's own name, unless it is changed.
    pub dns_names: Vec<String>,
    /// A group that can also read the key: for a process under another account, whose key it is.
    pub group: Option<u32>,
}

// === impl Authority ===

impl Authority {
    /// A new root with a new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate(now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("Rampart root CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - BACKDATE;
        params.not_after = now + ROOT_LIFETIME;
        let root = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate()?)?;
        let pem = root.pem();
        let key = KeyPair::from_pem(&root.key().serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The root in `directory` (`ca.pem`, `ca-key.pem`), made there first if there is none.
    ///
    /// # Errors
    /// The files cannot be read, written or understood, or the root has lost its key.
    pub fn open_or_create(directory: &Path, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
        if certificate.exists() && key.exists() {
            let pem = read(&certificate)?;
            check_time(&pem, certificate, now)?;
            let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&read(&key)?)?)?;
            return Ok(Self { issuer, pem });
        }
        if certificate.exists() {
            return Err(AuthorityError::KeyMissing { certificate, key });
        }
        let made = Self::generate(now)?;
        make_folder(directory)?;
        replace_file(&key, made.issuer.key().serialize_pem().as_bytes(), 0o600, None)?;
        replace_file(&certificate, made.pem.as_bytes(), 0o644, None)?;
        Ok(made)
    }

    /// The root certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs another authority's request (PEM), which may then sign leaves and nothing else. Returns its certificate, PEM.
    ///
    /// # Errors
    /// The request cannot be read.
    pub fn sign_intermediate(
        &self,
        request: &str,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        let params = &mut request.params;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = Vec::new();
        params.subject_alt_names = Vec::new();
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - BACKDATE;
        params.not_after = now + lifetime;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Signs a leaf with a new key and writes `certificate.pem`, `key.pem` (0600, or 0640 for a group) and `ca.pem` into `directory`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn issue(&self, leaf: &Leaf, directory: &Path) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = leaf.params()?.signed_by(&key, &self.issuer)?;
        make_folder(directory)?;
        replace_file(&directory.join("ca.pem"), self.pem.as_bytes(), 0o644, None)?;
        let key_mode = if leaf.group.is_some() { 0o640 } else { 0o600 };
        replace_file(&directory.join("key.pem"), key.serialize_pem().as_bytes(), key_mode, leaf.group)?;
        replace_file(&directory.join("certificate.pem"), certificate.pem().as_bytes(), 0o644, None)?;
        Ok(())
    }
}

// === impl Leaf ===

impl Leaf {
    /// A certificate for one instance of a service, from now on.
    pub fn new(name: PeerName, now: OffsetDateTime, lifetime: Duration) -> Self {
        let dns_names = vec![format!("{}.{TRUST_DOMAIN}", name.service)];
        let common_name = name.service.clone();
        Self { name, lifetime, dns_names, common_name, not_before: now - BACKDATE, group: None }
    }

    /// With further DNS names or IP addresses, as the balancer's front and PostgreSQL need.
    #[must_use]
    pub fn with_names(mut self, names: &[&str]) -> Self {
        self.dns_names.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    fn params(&self) -> Result<CertificateParams, AuthorityError> {
        let mut params = CertificateParams::new(self.dns_names.clone())?;
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(self.name.to_string())?));
        params.distinguished_name = distinguished_name(&self.common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = self.not_before;
        params.not_after = self.not_before + BACKDATE + self.lifetime;
        Ok(params)
    }
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Nothing that a root signs is good before the root is.
fn check_time(pem: &str, certificate: PathBuf, now: OffsetDateTime) -> Result<(), AuthorityError> {
    let (from, until) = identity::certificate_pem_validity(pem.as_bytes())?;
    if now < from {
        return Err(AuthorityError::NotYet { certificate, from });
    }
    if now >= until {
        return Err(AuthorityError::Ended { certificate, until });
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::Read { path: path.to_owned(), source })
}

fn make_folder(path: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(path).map_err(|source| WriteError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_root_is_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Authority::open_or_create(directory.path(), now).unwrap();
        let again = Authority::open_or_create(directory.path(), now).unwrap();
        assert_eq!(first.pem(), again.pem());
        let mode = fs::metadata(directory.path().join("ca-key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_root_of_another_time_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        Authority::open_or_create(directory.path(), now + Duration::days(3)).unwrap();
        let early = Authority::open_or_create(directory.path(), now).err().unwrap().to_string();
        assert!(early.contains("Set the clock"), "{early}");
        let late = Authority::open_or_create(directory.path(), now + Duration::days(20_000)).err().unwrap().to_string();
        assert!(late.contains("ended at"), "{late}");
    }

    #[test]
    fn a_root_without_its_key_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Authority::open_or_create(directory.path(), now).unwrap();
        fs::remove_file(directory.path().join("ca-key.pem")).unwrap();
        assert!(matches!(Authority::open_or_create(directory.path(), now), Err(AuthorityError::KeyMissing { .. })));
        assert_eq!(fs::read_to_string(directory.path().join("ca.pem")).unwrap(), first.pem());
    }

    #[test]
    fn identity_accepts_what_is_issued_here() {
        identity::install_crypto_providers().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let name = PeerName { service: "gateway".into(), instance: "gateway-a".into() };
        let leaf = Leaf::new(name.clone(), now, Duration::hours(1)).with_names(&["localhost", "127.0.0.1"]);
        Authority::generate(now).unwrap().issue(&leaf, directory.path()).unwrap();
        let loaded =
            identity::Identity::load(&identity::IdentityConfig { directory: directory.path().to_owned() }).unwrap();
        assert_eq!(loaded.name(), name);
    }
}
