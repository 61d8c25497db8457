//! The keys of a backup: the recipient it is encrypted to, the key that decrypts it, the key that signs it.
//!
//! Building a set needs the recipient (public) and the signing key. Only verifying or restoring one needs the decryption
//! key, so it can be stored elsewhere.

use sha256::Sha256Digest;
use std::{fmt, path::Path, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use secrets::{SecretError, SecretFile};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
const DECRYPTION_KEY_PREFIX: &str = "AGE-SECRET-KEY-1";

/// The recipient that sets are encrypted to: an age X25519 recipient, `age1…`.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

/// Decrypts what was encrypted to its recipient.
#[derive(Clone)]
pub struct DecryptionKey(age::x25519::Identity);

/// Signs manifests.
pub struct SigningKey(Ed25519KeyPair);

/// Verifies manifests.
#[derive(Clone)]
pub struct VerifyingKey {
    key: ParsedPublicKey,
    id: Sha256Digest,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is missing or refused.
    #[error("cannot read the key")]
    Secret(#[from] SecretError),
    /// A public key's file is missing or unreadable.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not an age recipient.
    #[error("not an age X25519 recipient (age1…)")]
    Recipient,
    /// Not an age identity.
    #[error("{path} holds no age X25519 identity (AGE-SECRET-KEY-1…)")]
    Decryption {
        /// The file.
        path: String,
    },
    /// Not a private key.
    #[error("{path} holds no Ed25519 private key (PKCS#8, PEM)")]
    Signing {
        /// The file.
        path: String,
    },
    /// Not a public key.
    #[error("{path} holds no Ed25519 public key (PEM); make one with: openssl pkey -in KEY -pubout")]
    Verifying {
        /// The file.
        path: String,
    },
}

// === impl Recipient ===

impl Recipient {
    /// Reads a recipients file: comments and one recipient.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Unreadable { path: shown, source })?;
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        line.ok_or(KeyError::Recipient)?.parse()
    }

    pub(crate) fn as_age(&self) -> &dyn age::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse().map(Self).map_err(|_| KeyError::Recipient)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

// === impl DecryptionKey ===

impl DecryptionKey {
    /// Reads an identity file, as `age-keygen` writes it: comments and one key.
    pub fn read(file: &SecretFile) -> Result<Self, KeyError> {
        let secret = file.read()?;
        let refused = || KeyError::Decryption { path: file.path().display().to_string() };
        let text = secret.expose_str().map_err(|_| refused())?;
        let line = text.lines().map(str::trim).find(|line| line.starts_with(DECRYPTION_KEY_PREFIX));
        line.and_then(|line| line.parse().ok()).map(Self).ok_or_else(refused)
    }

    /// The recipient to encrypt to so that this key decrypts it.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    pub(crate) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// Reads an Ed25519 key in PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
    pub fn read(file: &SecretFile) -> Result<Self, KeyError> {
        let secret = file.read()?;
        let refused = || KeyError::Signing { path: file.path().display().to_string() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(secret.expose()).map_err(|_| refused())?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map(Self).map_err(|_| refused())
    }

    /// The signature of a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// The key that verifies what this one signs.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.0.public_key().as_ref()).expect("the public half of a key pair is a public key")
    }
}

// === impl VerifyingKey ===

impl VerifyingKey {
    /// Reads an Ed25519 public key in PEM.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = path.display().to_string();
        let pem = std::fs::read(path).map_err(|source| KeyError::Unreadable { path: shown.clone(), source })?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).ok();
        der.and_then(|der| Self::from_bytes(der.as_ref())).ok_or(KeyError::Verifying { path: shown })
    }

    /// Whether the signature is this key's, of this message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }

    /// A name for the key: the sum of its 32 bytes.
    pub fn id(&self) -> Sha256Digest {
        self.id
    }

    /// The 32 bytes, or the DER that holds them.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = ParsedPublicKey::new(&ED25519, bytes).ok()?;
        let raw = bytes.last_chunk::<32>()?;
        Some(Self { id: Sha256Digest::of(raw), key })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use age::secrecy::ExposeSecret;

    use super::*;

    /// A decryption key and a signing key, made now.
    pub(crate) fn generate() -> (DecryptionKey, SigningKey) {
        (DecryptionKey(age::x25519::Identity::generate()), SigningKey(Ed25519KeyPair::generate().unwrap()))
    }

    fn secret(directory: &Path, text: &str) -> SecretFile {
        let path = directory.join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        SecretFile::new(path)
    }

    #[test]
    fn identity_file_of_age_keygen_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let identity = age::x25519::Identity::generate();
        let public = identity.to_public().to_string();
        let text = format!("# created: now\n# public key: {public}\n{}\n", identity.to_string().expose_secret());
        let key = DecryptionKey::read(&secret(directory.path(), &text)).unwrap();
        assert_eq!(format!("{:?}", key.recipient()), public);
        assert!(DecryptionKey::read(&secret(directory.path(), &public)).is_err());
        let path = directory.path().join("recipients");
        fs::write(&path, format!("# whom\n\n{public}\n")).unwrap();
        assert_eq!(format!("{:?}", Recipient::read(&path).unwrap()), public);
    }

    #[test]
    fn signature_holds_for_one_message_and_one_key() {
        let (_, key) = generate();
        let signature = key.sign(b"manifest");
        assert_eq!(signature.len(), SIGNATURE_BYTES);
        assert!(key.verifying_key().verifies(b"manifest", &signature));
        assert!(!key.verifying_key().verifies(b"manifesto", &signature));
        assert!(!generate().1.verifying_key().verifies(b"manifest", &signature));
    }

    #[test]
    fn keys_of_openssl_are_read() {
        // RFC 8410, section 10: a private key and its public key.
        const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
        const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
        let directory = tempfile::tempdir().unwrap();
        let private = SigningKey::read(&secret(directory.path(), PRIVATE)).unwrap();
        let path = directory.path().join("public.pem");
        fs::write(&path, PUBLIC).unwrap();
        let public = VerifyingKey::read(&path).unwrap();
        assert!(public.verifies(b"x", &private.sign(b"x")));
        assert_eq!(public.id(), private.verifying_key().id());
    }
}
