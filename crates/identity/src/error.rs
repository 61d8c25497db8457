//! What can be wrong with an identity.

use std::{io, path::PathBuf};

/// Why an identity could not be loaded, or why new files were refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing, unreadable or too large.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key is missing, or others can read it.
    #[error("key of the certificate cannot be used")]
    Key(#[from] secrets::SecretError),
    /// A file holds something else than the PEM it should.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The key is of no use, or is another certificate's.
    #[error("key.pem in {directory} is not the key of certificate.pem")]
    Pair {
        /// The directory of the pair.
        directory: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The certificate is expired, foreign or not made for both sides of a connection.
    #[error("certificate.pem in {directory} would be refused by peers that trust ca.pem")]
    Certificate {
        /// The directory of the certificate.
        directory: PathBuf,
        /// What the verifier said.
        source: rustls::Error,
    },
    /// The CA bundle cannot serve as a trust anchor.
    #[error("ca.pem in {directory} is not a usable CA bundle")]
    Roots {
        /// The directory of the bundle.
        directory: PathBuf,
        /// What the verifier said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate names no service of the trust domain.
    #[error("certificate.pem names no service of the trust domain")]
    Name(#[from] NameError),
    /// The new certificate names another service or instance.
    #[error("new certificate is for {found}, but this process is {expected}")]
    OtherName {
        /// The name of this process.
        expected: String,
        /// The name in the new certificate.
        found: String,
    },
    /// The process has no usable cryptography.
    #[error("cryptography cannot be used: {0}")]
    Provider(String),
}

/// Why a certificate or a text names no peer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a certificate.
    #[error("certificate cannot be parsed")]
    Malformed,
    /// A peer has exactly one URI name, so that no reader can choose among several.
    #[error("certificate has {0} URI names instead of one")]
    Count(usize),
    /// The name is not of the form `spiffe://rampart.internal/svc/<service>/<instance>`.
    #[error("{0:?} is not of the form spiffe://rampart.internal/svc/<service>/<instance>")]
    Form(String),
}
