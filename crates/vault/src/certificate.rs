//! A key that never leaves the process, and Vault's signature on it.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use secrets::{WriteError, replace_file};
use serde_json::Value;
use time::OffsetDateTime;

use crate::client::text;
use crate::{Login, Vault, VaultError};

/// Has a new key signed and puts it, its chain and a link to the CA file into `directory`. Returns when the certificate ends.
pub(crate) async fn renew(
    vault: &Vault,
    token: &str,
    login: &Login,
    ca_file: &Path,
    directory: &Path,
) -> Result<OffsetDateTime, VaultError> {
    let key = KeyPair::generate()?;
    let path = format!("pki/sign/{}", login.role);
    let answer = vault.post(token, &path, &request(login, &key)?).await?;
    let call = format!("POST {path}");
    let certificate = text(&answer, "/data/certificate", &call, "certificate")?;
    let issuer = text(&answer, "/data/issuing_ca", &call, "issuing CA")?;
    let expiration = answer.pointer("/data/expiration").and_then(Value::as_i64);
    let not_after = expiration
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(VaultError::Incomplete { call, what: "expiration" })?;

    link_to(ca_file, &directory.join("ca.pem"))?;
    let chain = format!("{}\n{}\n", certificate.trim(), issuer.trim());
    replace_file(&directory.join("key.pem"), key.serialize_pem().as_bytes(), 0o600, None)?;
    replace_file(&directory.join("certificate.pem"), chain.as_bytes(), 0o644, None)?;
    Ok(not_after)
}

/// Vault takes the key from the signing request, and no name: names are parameters, which a policy can compare.
fn request(login: &Login, key: &KeyPair) -> Result<Value, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let mut request = login.names();
    request.insert("csr".to_owned(), params.serialize_request(key)?.pem()?.into());
    Ok(request.into())
}

/// A link, so that readers see a renewed CA file at once.
fn link_to(ca_file: &Path, link: &Path) -> Result<(), WriteError> {
    if std::fs::read_link(link).is_ok_and(|found| found == ca_file) {
        return Ok(());
    }
    std::os::unix::fs::symlink(ca_file, link).map_err(|source| WriteError { path: link.to_owned(), source })
}
