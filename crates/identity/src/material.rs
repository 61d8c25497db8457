//! The three files of an identity, and what makes them acceptable.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use secrets::{Secret, SecretFile};
use sha256::{Hasher, Sha256Digest};
use time::OffsetDateTime;

use crate::{IdentityError, PeerName, crypto_provider, name};

const FILE_BYTES_MAX: u64 = 256 * 1024;
const CERTIFICATE_FILE: &str = "certificate.pem";
const KEY_FILE: &str = "key.pem";
pub(crate) const CA_FILE: &str = "ca.pem";

/// The bytes of the files, not verified.
pub(crate) struct IdentityFiles {
    certificate: Vec<u8>,
    key: Secret,
    ca: Vec<u8>,
}

/// Files that passed: what the process uses until it has something newer.
pub(crate) struct VerifiedFiles {
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) client_verifier: Arc<dyn ClientCertVerifier>,
    pub(crate) server_verifier: Arc<WebPkiServerVerifier>,
    pub(crate) name: PeerName,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) digest: Sha256Digest,
}

// === impl IdentityFiles ===

impl IdentityFiles {
    pub(crate) fn read(directory: &Path) -> Result<Self, IdentityError> {
        Ok(Self {
            certificate: read(&directory.join(CERTIFICATE_FILE))?,
            key: SecretFile::new(directory.join(KEY_FILE)).read()?,
            ca: read(&directory.join(CA_FILE))?,
        })
    }

    pub(crate) fn digest(&self) -> Sha256Digest {
        let mut hasher = Hasher::new();
        for part in [self.certificate.as_slice(), self.key.expose(), &self.ca] {
            hasher.update(&part.len().to_be_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }
}

// === impl VerifiedFiles ===

impl VerifiedFiles {
    /// Accepts only what every peer would accept, as a server and as a client, at this moment.
    pub(crate) fn verify(directory: &Path, files: IdentityFiles) -> Result<Self, IdentityError> {
        let digest = files.digest();
        let chain = certificates(&directory.join(CERTIFICATE_FILE), &files.certificate)?;
        let roots = certificates(&directory.join(CA_FILE), &files.ca)?;
        let key = PrivateKeyDer::from_pem_slice(files.key.expose())
            .map_err(|_| IdentityError::Pem { path: directory.join(KEY_FILE), what: "private key" })?;
        let certified = CertifiedKey::from_der(chain, key.clone_key(), &crypto_provider())
            .map_err(|source| IdentityError::Pair { directory: directory.to_owned(), source })?;
        let (leaf, intermediates) =
            certified.cert.split_first().expect("certificates() returns at least one certificate");
        let name = PeerName::from_certificate(leaf)?;
        let (not_before, not_after) = name::validity(leaf)?;
        let (client_verifier, server_verifier) = verifiers(directory, &roots)?;

        let refused = |source| IdentityError::Certificate { directory: directory.to_owned(), source };
        let now = UnixTime::now();
        client_verifier.verify_client_cert(leaf, intermediates, now).map_err(refused)?;
        let dns_name = server_name(&name.service).map_err(refused)?;
        server_verifier.verify_server_cert(leaf, intermediates, &dns_name, &[], now).map_err(refused)?;

        let certified = Arc::new(certified);
        Ok(Self { certified, key, roots, client_verifier, server_verifier, name, not_before, not_after, digest })
    }
}

/// The DNS name that a server of this service must carry.
pub(crate) fn server_name(service: &str) -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(name::dns_name(service))
        .map_err(|_| rustls::Error::General(format!("{service:?} is not the name of a service")))
}

fn verifiers(
    directory: &Path,
    roots: &[CertificateDer<'static>],
) -> Result<(Arc<dyn ClientCertVerifier>, Arc<WebPkiServerVerifier>), IdentityError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| IdentityError::Roots {
        directory: directory.to_owned(),
        source,
    };
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| unusable(error.into()))?;
    }
    let store = Arc::new(store);
    // No CA names are sent as a hint: they would stay those of the start, and a client has one certificate.
    let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), crypto_provider())
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| unusable(error.into()))?;
    let servers = WebPkiServerVerifier::builder_with_provider(store, crypto_provider())
        .build()
        .map_err(|error| unusable(error.into()))?;
    Ok((clients, servers))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let malformed = || IdentityError::Pem { path: path.to_owned(), what: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| malformed())?;
    if found.is_empty() { Err(malformed()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|source| unreadable(path, source))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_BYTES_MAX} bytes"));
        return Err(unreadable(path, source));
    }
    Ok(content)
}

fn unreadable(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Read { path: PathBuf::from(path), source }
}
