//! The secrets of a platform: made once, as files that only their owner can read, `<folder>/<service>/<name>`.

use std::path::Path;

use anyhow::Context as _;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use topology::{Secret, SecretKind};

/// Makes those that are missing; leaves those that are there.
pub fn ensure(folder: &Path, wanted: impl IntoIterator<Item = Secret>) -> anyhow::Result<()> {
    for secret in wanted {
        let path = folder.join(secret.path);
        if path.exists() {
            continue;
        }
        let made = match secret.kind {
            SecretKind::Random => random()?,
            SecretKind::Named(name) => format!("{name}-{}", random()?),
            SecretKind::KmsKey => format!("rampart:{}", STANDARD.encode(random_bytes()?)),
            SecretKind::SigningKey => authz::generate_pkcs8_pem().context("cannot make a signing key")?.to_string(),
            SecretKind::AgeIdentity => age_identity(),
            SecretKind::AgeRecipient => age_recipient(&path.with_file_name("age-identity"))?,
        };
        if let Some(directory) = path.parent() {
            secrets::make_folder(directory, 0o700)?;
        }
        secrets::replace_file(&path, made.as_bytes(), 0o600, None)?;
    }
    Ok(())
}

fn random_bytes() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system gave no random bytes")?;
    Ok(bytes)
}

fn random() -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes()?))
}

/// An X25519 identity that backups are encrypted to (age, `AGE-SECRET-KEY-1…`).
fn age_identity() -> String {
    use age::secrecy::ExposeSecret as _;
    age::x25519::Identity::generate().to_string().expose_secret().to_owned()
}

/// The public half of an age identity, which backups are encrypted to.
fn age_recipient(identity: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(identity).with_context(|| format!("cannot read {}", identity.display()))?;
    let identity: Result<age::x25519::Identity, _> = text.trim().parse();
    identity.map(|identity| identity.to_public().to_string()).map_err(|why| anyhow::anyhow!("age identity: {why}"))
}
