//! The secrets of a platform: made once, as files that only their owner can read, `<folder>/<service>/<name>`.

use std::path::Path;

use anyhow::Context as _;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

/// Services that log in to the database, each as its own role.
pub const DATABASE_ROLES: [&str; 3] = ["gateway", "sla", "backup"];

/// Makes what is missing; leaves what is there.
pub fn ensure(folder: &Path) -> anyhow::Result<()> {
    let path = |service: &str, name: &str| folder.join(service).join(name);
    for service in DATABASE_ROLES {
        ensure_random(&path(service, "database-password"))?;
    }
    for name in ["access-signing-key.pem", "passport-signing-key.pem"] {
        ensure_with(&path("gateway", name), signing_key)?;
    }
    ensure_random(&path("gateway", "bootstrap-token"))?;
    ensure_with(&path("backup", "manifest-signing-key.pem"), signing_key)?;
    let identity = path("backup", "age-identity");
    ensure_with(&identity, || Ok(age_identity()))?;
    ensure_with(&path("backup", "age-recipient"), || age_recipient(&identity))?;
    ensure_random(&path("operator", "admin-password"))
}

fn random_bytes() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system gave no random bytes")?;
    Ok(bytes)
}

fn random() -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes()?))
}

/// Makes the file with 256 random bits, base64url, unless it is there.
pub fn ensure_random(path: &Path) -> anyhow::Result<()> {
    ensure_with(path, random)
}

/// The same behind `<name>-`, so that a line of a log tells which key it was.
pub fn ensure_named(path: &Path, name: &str) -> anyhow::Result<()> {
    ensure_with(path, || Ok(format!("{name}-{}", random()?)))
}

/// A key that MinIO encrypts with, in MinIO's own form.
pub fn ensure_kms_key(path: &Path, name: &str) -> anyhow::Result<()> {
    ensure_with(path, || Ok(format!("{name}:{}", STANDARD.encode(random_bytes()?))))
}

fn ensure_with(path: &Path, make_secret: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        secrets::make_folder(directory, 0o700)?;
    }
    secrets::replace_file(path, make_secret()?.as_bytes(), 0o600, None)?;
    Ok(())
}

fn signing_key() -> anyhow::Result<String> {
    authz::generate_pkcs8_pem().map(|pem| pem.to_string()).context("cannot make a signing key")
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
