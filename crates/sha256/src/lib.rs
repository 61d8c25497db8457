#![doc = include_str!("../README.md")]

mod measuring;

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, de};

pub use measuring::{Measured, Measuring};

/// A SHA-256 digest; 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sha256Digest([u8; 32]);

/// That something is no SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hexadecimal digits")]
pub struct NotADigest;

/// A digest in the making.
#[derive(Clone)]
pub struct Hasher(Context);

/// Reads digests that people write, in digits of either case: `#[serde(deserialize_with = "sha256::any_case")]`, also for an
/// `Option`.
pub fn any_case<'de, D: Deserializer<'de>, T: From<Sha256Digest>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?.to_ascii_lowercase();
    text.parse::<Sha256Digest>().map(T::from).map_err(de::Error::custom)
}

// === impl Sha256Digest ===

impl Sha256Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        // In one step, which costs no allocation.
        let digest = digest(&SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Sha256Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Sha256Digest {
    type Error = NotADigest;

    fn try_from(bytes: &[u8]) -> Result<Self, NotADigest> {
        bytes.try_into().map(Self).map_err(|_| NotADigest)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotADigest)?;
        Ok(Self(bytes))
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

// === impl Hasher ===

impl Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Sha256Digest {
        let digest = self.0.finish();
        Sha256Digest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of "abc" (FIPS 180-4).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn is_sha256() {
        assert_eq!(Sha256Digest::of(b"abc").to_string(), ABC);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").to_string(), empty);
    }

    #[test]
    fn only_its_own_spelling_is_read() {
        assert_eq!(ABC.parse::<Sha256Digest>().unwrap(), Sha256Digest::of(b"abc"));
        assert!(ABC.to_uppercase().parse::<Sha256Digest>().is_err());
        assert!(ABC[..62].parse::<Sha256Digest>().is_err());
        assert_eq!(serde_json::to_value(Sha256Digest::of(b"abc")).unwrap(), ABC);
        assert!(serde_json::from_value::<Sha256Digest>(ABC.to_uppercase().into()).is_err());
    }

    #[test]
    fn people_write_digests_in_either_case() {
        #[derive(Deserialize)]
        struct File {
            #[serde(default, deserialize_with = "any_case")]
            sha256: Option<Sha256Digest>,
        }
        for (text, expected) in [("{}", None), (&*format!("{{\"sha256\": \"{}\"}}", ABC.to_uppercase()), Some(b"abc"))]
        {
            let file: File = serde_json::from_str(text).unwrap();
            assert_eq!(file.sha256, expected.map(|bytes| Sha256Digest::of(bytes)));
        }
        assert!(serde_json::from_str::<File>("{\"sha256\": \"e3\"}").is_err());
    }
}
