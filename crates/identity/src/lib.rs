#![doc = include_str!("../README.md")]

mod configs;
mod error;
mod front_certificate;
mod front_file;
mod material;
mod metrics;
mod name;
mod peers;
mod provider;
mod reload;
mod tls_callbacks;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::watch;

pub use configs::front_server_config;
pub use error::{IdentityError, NameError};
pub use front_certificate::{FrontCertificate, FrontCertificateError};
pub use front_file::FrontCertificateFile;
pub use name::{
    PeerName, TRUST_DOMAIN, certificate_not_after, certificate_pem_not_after, certificate_pem_validity, dns_name,
};
pub use peers::{PeerList, PeerListError};
pub use provider::{crypto_provider, install_crypto_providers};

use material::{IdentityFiles, VerifiedFiles};

/// Where the files of an identity lie: `certificate.pem` (leaf first), `key.pem` (mode 0600) and `ca.pem`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// The directory that is read at start and watched from then on.
    pub directory: PathBuf,
}

/// The process's certificate, its key and the CAs it trusts: always the newest that passed verification.
pub struct Identity {
    directory: PathBuf,
    name: PeerName,
    material: ArcSwap<VerifiedFiles>,
    generation: watch::Sender<Generation>,
}

/// How often an identity has changed since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Reloads of anything: certificate, key or CA bundle.
    pub reload: u64,
    /// Reloads that changed the CA bundle: a peer that was trusted before may not be trusted now.
    pub trust: u64,
}

// === impl Identity ===

impl Identity {
    /// Reads and verifies the files; refuses what a peer would refuse.
    pub fn load(config: &IdentityConfig) -> Result<Arc<Self>, IdentityError> {
        let files = IdentityFiles::read(&config.directory)?;
        let material = VerifiedFiles::verify(&config.directory, files)?;
        metrics::describe();
        metrics::set_validity(&material);
        Ok(Arc::new(Self {
            directory: config.directory.clone(),
            name: material.name.clone(),
            material: ArcSwap::from_pointee(material),
            generation: watch::Sender::new(Generation::default()),
        }))
    }

    /// The file with the authorities that are trusted.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join(material::CA_FILE)
    }

    /// The name in the certificate. It never changes: a pair with another name is refused.
    pub fn name(&self) -> PeerName {
        self.name.clone()
    }

    /// Rises by one with every reload, be it of the certificate or of the CA bundle.
    pub fn generation(&self) -> u64 {
        self.generation.borrow().reload
    }

    /// Changes with every reload.
    pub fn changes(&self) -> watch::Receiver<Generation> {
        self.generation.subscribe()
    }

    /// When the certificate in use ends.
    pub fn not_after(&self) -> OffsetDateTime {
        self.material.load().not_after
    }

    /// The chain and key in use, for a TLS stack that takes no resolver. Ask again when `generation` has risen.
    pub fn chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let material = self.material.load();
        (material.certified.cert.clone(), material.key.clone_key())
    }

    /// The CAs in use, for a TLS stack that takes no verifier. Ask again when `generation` has risen.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.material.load().roots.clone()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("directory", &self.directory).finish_non_exhaustive()
    }
}
