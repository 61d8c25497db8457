//! The `[vault]` section, and the file with which a container logs in.

use std::{fmt, net::IpAddr, path::PathBuf};

use secrets::{Secret, SecretFile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::VaultError;

/// Where a service gets its certificate and its database password.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host:port`.
    pub address: String,
    /// Certificates (PEM) of the CAs that the certificates of Vault and of peers may be from.
    pub ca_file: PathBuf,
    /// A [`Login`], as JSON. Read anew at every login, so it can be renewed.
    pub login_file: SecretFile,
    /// The static role of Vault's database engine whose password the service uses; without one none is fetched.
    #[serde(default)]
    pub database_role: Option<String>,
    /// Where that password is put.
    #[serde(default)]
    pub database_password_file: Option<PathBuf>,
}

/// What one container needs to log in to Vault and to ask for its certificate.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Name of the `AppRole` and of the PKI role: the container.
    pub role: String,
    /// The `AppRole`'s id.
    pub role_id: String,
    /// Its secret, valid for a few days.
    pub secret_id: String,
    /// The common name in the certificate: the service.
    pub common_name: String,
    /// The SPIFFE name in the certificate.
    pub name: String,
    /// DNS names and IP addresses in the certificate.
    pub dns_names: Vec<String>,
}

// === impl Login ===

impl Login {
    /// The names in the certificate, as the parameters with which Vault is asked to sign it; a policy compares each with what it
    /// must be.
    pub fn names(&self) -> Map<String, Value> {
        let (addresses, hosts): (Vec<&str>, Vec<&str>) =
            self.dns_names.iter().map(String::as_str).partition(|name| name.parse::<IpAddr>().is_ok());
        let names = [
            ("common_name", self.common_name.clone()),
            ("alt_names", hosts.join(",")),
            ("ip_sans", addresses.join(",")),
            ("uri_sans", self.name.clone()),
        ];
        let named = names.into_iter().filter(|(_, names)| !names.is_empty());
        let mut parameters: Map<String, Value> =
            named.map(|(parameter, names)| (parameter.to_owned(), names.into())).collect();
        // The common name is the service's, and no host's. As a text: Vault's policies compare no other values.
        parameters.insert("exclude_cn_from_sans".to_owned(), "true".into());
        parameters
    }
}

/// Without the secret id, which opens Vault.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl VaultConfig ===

impl VaultConfig {
    /// What is wrong with the values: key inside the section, and why. Reads no file.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !self.address.starts_with("https://") {
            faults.push(("address", "must be https://host:port".to_owned()));
        }
        if self.database_role.is_some() != self.database_password_file.is_some() {
            faults.push(("database_role", "and database_password_file belong together".to_owned()));
        }
        faults
    }

    pub(crate) fn login(&self) -> Result<Login, VaultError> {
        let secret: Secret = self.login_file.read()?;
        serde_json::from_slice(secret.expose())
            .map_err(|_hides_content| VaultError::Login { path: self.login_file.path().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(address: &str, role: Option<&str>) -> VaultConfig {
        VaultConfig {
            address: address.to_owned(),
            ca_file: "ca.pem".into(),
            login_file: SecretFile::new("login.json"),
            database_role: role.map(ToOwned::to_owned),
            database_password_file: None,
        }
    }

    #[test]
    fn plain_http_and_half_a_database_are_refused() {
        assert!(config("https://vault:8200", None).faults().is_empty());
        assert_eq!(config("http://vault:8200", Some("gateway")).faults().len(), 2);
    }

    fn login(dns_names: &[&str]) -> Login {
        Login {
            role: "gateway-a".into(),
            common_name: "gateway".into(),
            name: "spiffe://r/svc/gateway/gateway-a".into(),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            ..Login::default()
        }
    }

    #[test]
    fn vault_is_asked_for_exactly_the_names_of_the_login() {
        let names = Value::Object(login(&["gateway.r", "127.0.0.1", "gateway-a"]).names());
        let (common_name, uri) = ("gateway", "spiffe://r/svc/gateway/gateway-a");
        let wanted = json!({
            "common_name": common_name,
            "alt_names": "gateway.r,gateway-a",
            "ip_sans": "127.0.0.1",
            "uri_sans": uri,
            "exclude_cn_from_sans": "true",
        });
        assert_eq!(names, wanted);
        assert!(!login(&["gateway.r"]).names().contains_key("ip_sans"), "what is empty is not asked for");
    }

    #[test]
    fn a_login_is_shown_without_what_opens_vault() {
        let (role_id, secret_id) = ("0f6f".to_owned(), "s.3cr3t".to_owned());
        let login = Login { role: "sla-tracker".into(), role_id, secret_id, ..login(&[]) };
        let shown = format!("{login:?}");
        assert!(shown.contains("sla") && !shown.contains("0f6f") && !shown.contains("s.3cr3t"), "{shown}");
    }
}
