//! A key that never leaves the process, and Vault's signature on it.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, string::Ia5String};
use secrets::{WriteError, replace_file};
use serde_json::{Value, json};
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
    let request = request(login)?.serialize_request(&key)?.pem()?;
    let path = format!("pki/sign/{}", login.role);
    let answer = vault.post(token, &path, &json!({ "csr": request, "exclude_cn_from_sans": true })).await?;
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

fn request(login: &Login) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(login.dns_names.clone())?;
    params.subject_alt_names.push(SanType::URI(Ia5String::try_from(login.name.as_str())?));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, login.role.as_str());
    Ok(params)
}

/// A link, so that readers see a renewed CA file at once.
fn link_to(ca_file: &Path, link: &Path) -> Result<(), WriteError> {
    if std::fs::read_link(link).is_ok_and(|found| found == ca_file) {
        return Ok(());
    }
    std::os::unix::fs::symlink(ca_file, link).map_err(|source| WriteError { path: link.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_exactly_the_names_of_the_login() {
        let login = Login {
            role: "gateway".into(),
            role_id: String::new(),
            secret_id: String::new(),
            name: "spiffe://rampart.internal/svc/gateway/gateway-a".into(),
            dns_names: vec!["gateway.rampart.internal".into(), "127.0.0.1".into()],
        };
        let names = request(&login).unwrap().subject_alt_names;
        assert!(
            matches!(&names[..], [SanType::DnsName(_), SanType::IpAddress(_), SanType::URI(uri)] if uri.as_str() == login.name)
        );
    }
}
