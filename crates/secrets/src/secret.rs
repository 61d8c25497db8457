//! A value that must not be seen.

use std::fmt;
use std::str::Utf8Error;

use sha256::Hasher;
use zeroize::Zeroizing;

/// Separates fingerprints from every other use of SHA-256 in the system.
const FINGERPRINT_DOMAIN: &[u8] = b"rampart secret fingerprint v1\0";

/// How many digits of the digest a fingerprint shows: enough to tell two secrets apart, not to stand in for one.
const FINGERPRINT_DIGITS: usize = 16;

/// Bytes that are wiped on drop and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

// === impl Secret ===

impl Secret {
    /// Takes over `bytes`; the caller keeps no copy.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The value itself. Each call is a place where it can leak; keep them few.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The value as text, for the interfaces that want a string (a database password).
    pub fn expose_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    /// Sixteen hexadecimal digits that tell whether two secrets are the same, fit to be logged.
    ///
    /// Only for secrets made by a machine (128 bits or more): that of a guessable one can be guessed too.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Hasher::new();
        hasher.update(FINGERPRINT_DOMAIN);
        hasher.update(&self.0);
        hasher.finish().to_string().chars().take(FINGERPRINT_DIGITS).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let secret = Secret::new("correct horse");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret(..) Some(\n    Secret(..),\n)");
    }

    #[test]
    fn equality_and_fingerprint_agree() {
        let (one, same, other) = (Secret::new("a"), Secret::new("a"), Secret::new("b"));
        assert_eq!(one, same);
        assert_eq!(one.fingerprint(), same.fingerprint());
        assert_ne!(one, other);
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.fingerprint().len(), 16);
    }
}
