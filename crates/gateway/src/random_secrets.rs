//! Opaque secrets: refresh tokens and client secrets, 256 bits each.
//!
//! They cannot be guessed, so a plain SHA-256 of them is enough to store.

use aws_lc_rs::{hmac, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha256::Sha256Digest;
use subtle::ConstantTimeEq as _;

/// The digest under which a secret is stored.
pub type Digest = [u8; 32];

/// What a refresh token begins with, so that scanners and people recognise one.
pub const REFRESH_PREFIX: &str = "rampart_rt_";

/// What a client secret begins with.
pub const CLIENT_SECRET_PREFIX: &str = "rampart_cs_";

const CREDENTIAL_PREFIX: &str = "sha256:";

/// Length of 32 bytes in base64 without padding.
const TEXT_LENGTH: usize = 43;

/// A new secret. Fails only when the system has no randomness to give.
pub fn generate(prefix: &str) -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The secret that follows from another one and a key: always the same, and without the key as hard to guess as a random one.
pub fn derive(prefix: &str, key: &hmac::Key, from: &str) -> String {
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(hmac::sign(key, from.as_bytes())))
}

/// Whether a text could have come from [`generate`] or [`derive`].
pub fn has_form(text: &str, prefix: &str) -> bool {
    let is_of_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.strip_prefix(prefix).is_some_and(|rest| rest.len() == TEXT_LENGTH && rest.bytes().all(is_of_base64url))
}

/// The SHA-256 of a secret.
pub fn sha256(secret: &str) -> Digest {
    *Sha256Digest::of(secret.as_bytes()).as_bytes()
}

/// What the `credential` of a machine is for this client secret.
pub fn credential(secret: &str) -> String {
    format!("{CREDENTIAL_PREFIX}{}", Sha256Digest::of(secret.as_bytes()))
}

/// Whether `secret` is the one `credential` was made of, in time that does not depend on it.
pub fn matches_credential(secret: &str, stored: &str) -> bool {
    credential(secret).as_bytes().ct_eq(stored.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_has_the_form_and_nothing_else_has() {
        let secret = generate(REFRESH_PREFIX).unwrap();
        assert!(has_form(&secret, REFRESH_PREFIX));
        assert!(!has_form(&secret, CLIENT_SECRET_PREFIX));
        for bad in ["", REFRESH_PREFIX, &secret[..secret.len() - 1], &format!("{secret}A"), &secret.replace('_', "=")] {
            assert!(!has_form(bad, REFRESH_PREFIX), "{bad}");
        }
    }

    #[test]
    fn a_derived_secret_follows_from_key_and_text_alone() {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let derived = derive(REFRESH_PREFIX, &key(b"a"), "x");
        assert!(has_form(&derived, REFRESH_PREFIX));
        assert_eq!(derived, derive(REFRESH_PREFIX, &key(b"a"), "x"));
        assert_ne!(derived, derive(REFRESH_PREFIX, &key(b"b"), "x"));
        assert_ne!(derived, derive(REFRESH_PREFIX, &key(b"a"), "y"));
    }

    #[test]
    fn only_the_same_secret_matches() {
        let secret = generate(CLIENT_SECRET_PREFIX).unwrap();
        let stored = credential(&secret);
        assert!(matches_credential(&secret, &stored));
        assert!(!matches_credential(&generate(CLIENT_SECRET_PREFIX).unwrap(), &stored));
        assert!(!matches_credential(&secret, "$argon2id$v=19$"));
        assert!(!matches_credential("", ""));
        assert!(!stored.contains(secret.trim_start_matches(CLIENT_SECRET_PREFIX)));
    }
}
