//! The process's cryptography: aws-lc-rs, reduced to TLS 1.3.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::{
    NamedGroup,
    crypto::{CryptoProvider, aws_lc_rs as lc},
};

use crate::IdentityError;

/// Installs the provider for everything in this process that takes the default (pingora, tonic, reqwest, sqlx), and the
/// one for tokens; then signs and verifies once. The first line of every `main`; calling it again changes nothing.
///
/// Without it rustls panics as soon as two providers are linked, and others would offer TLS 1.2.
pub fn install_crypto_providers() -> Result<(), IdentityError> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    INSTALLED.get_or_init(install).clone().map_err(IdentityError::Provider)
}

/// The provider in use: TLS 1.3 suites only, the post-quantum hybrid group first.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(reduced_provider())).clone()
}

fn reduced_provider() -> CryptoProvider {
    let mut provider = lc::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups =
        vec![lc::kx_group::X25519MLKEM768, lc::kx_group::X25519, lc::kx_group::SECP256R1, lc::kx_group::SECP384R1];
    provider
}

fn install() -> Result<(), String> {
    // An error only says that a provider is there already; whether it is this one is checked next.
    let _ = CryptoProvider::clone(&crypto_provider()).install_default();
    let installed = CryptoProvider::get_default().ok_or("no TLS provider is installed")?;
    if !is_reduced(installed) {
        return Err("another TLS provider was installed before this one".into());
    }
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    sign_and_verify().map_err(|error| format!("a token signed by this process does not verify: {error}"))
}

fn is_reduced(provider: &CryptoProvider) -> bool {
    let has_hybrid_first = provider.kx_groups.first().is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768);
    has_hybrid_first && provider.cipher_suites.iter().all(|suite| suite.tls13().is_some())
}

/// A broken token provider fails at its first use and cannot be replaced then, so its first use is here.
fn sign_and_verify() -> Result<(), Box<dyn std::error::Error>> {
    let pair = Ed25519KeyPair::generate()?;
    let claims = serde_json::json!({ "self": "test" });
    let private = EncodingKey::from_ed_der(pair.to_pkcs8v1()?.as_ref());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &private)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    let public = DecodingKey::from_ed_der(pair.public_key().as_ref());
    let decoded = jsonwebtoken::decode::<serde_json::Value>(&token, &public, &validation)?;
    if decoded.claims == claims { Ok(()) } else { Err("claims came back changed".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_installation_changes_nothing() {
        install_crypto_providers().unwrap();
        install_crypto_providers().unwrap();
        assert!(is_reduced(CryptoProvider::get_default().unwrap()));
    }
}
