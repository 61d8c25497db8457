//! Vault's database engine: it knows the passwords of the roles in PostgreSQL and changes them.

use std::{fs, time::Duration};

use ::vault::{Vault, VaultError};
use anyhow::{Context as _, bail};
use reqwest::Method;
use secrets::{make_folder, replace_file};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Settings, logins::OWN_ROLE};
use crate::containers::{Container, PEOPLES_DATABASE};

/// Roles whose passwords Vault rotates; `detektor` is people's.
pub(super) const ROLES: [&str; 4] = ["gateway", "sla", "backup", PEOPLE];
const PEOPLE: &str = "detektor";
const PLUGIN: &str = "postgresql-database-plugin";
/// Of the Vault that the plugin was built with.
const PLUGIN_VERSION: &str = "v1.21.2";
const CONNECTION: &str = "detektor";
/// By the name that every node's certificate carries; the files are those of Vault's own container.
const CONNECTION_URL: &str = "postgresql://{{username}}:{{password}}@detektor-postgres:5432/detektor?sslmode=verify-full\
    &sslrootcert=/identity/ca.pem&sslcert=/identity/certificate.pem&sslkey=/identity/key.pem&connect_timeout=5";

/// Somebody may rotate a password by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The connection, and a static role for each of ours. Creating one changes its password at once.
pub(super) async fn ensure(vault: &Vault, token: &str, settings: &Settings) -> anyhow::Result<()> {
    let version = ensure_plugin(vault, token, settings).await?;
    let file = settings.state.join("steward/postgres/vault-password");
    let password = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut connection = json!({
        "plugin_name": PLUGIN,
        "allowed_roles": ROLES,
        "connection_url": CONNECTION_URL,
        "username": "vault",
        "password": password.trim(),
        "password_authentication": "scram-sha-256",
        "verify_connection": true,
    });
    if let (Some(version), Some(fields)) = (version, connection.as_object_mut()) {
        fields.insert("plugin_version".to_owned(), version.into());
    }
    vault.post(token, &format!("database/config/{CONNECTION}"), &connection).await?;
    for role in ROLES {
        ensure_static_role(vault, token, role, settings.rotation_period).await?;
    }
    Ok(())
}

async fn ensure_static_role(vault: &Vault, token: &str, role: &str, period: Duration) -> anyhow::Result<()> {
    let path = format!("database/static-roles/{role}");
    let known = match vault.get(token, &path).await {
        Ok(known) => known.pointer("/data/rotation_period").and_then(Value::as_u64),
        Err(error) if error.status() == Some(404) => None,
        Err(error) => return Err(error.into()),
    };
    if known != Some(period.as_secs()) {
        let wish =
            json!({ "db_name": CONNECTION, "username": role, "rotation_period": format!("{}s", period.as_secs()) });
        vault.post(token, &path, &wish).await?;
    }
    Ok(())
}

/// Vault runs a plugin only under the digest that it was registered with. Returns the version, unless it is built in.
async fn ensure_plugin(vault: &Vault, token: &str, settings: &Settings) -> anyhow::Result<Option<&'static str>> {
    let path = format!("sys/plugins/catalog/database/{PLUGIN}");
    if is_built_in(vault.get(token, &path).await)? {
        return Ok(None);
    }
    let listed = fs::read_to_string(&settings.plugin_digest)
        .with_context(|| format!("cannot read {}", settings.plugin_digest.display()))?;
    let Some(digest) = listed.split_whitespace().next() else {
        bail!("this Vault has no {PLUGIN} built in, and its image brings none: see RAMPART_VAULT_IMAGE")
    };
    let plugin = json!({ "sha256": digest, "command": PLUGIN, "version": PLUGIN_VERSION });
    vault.call(Method::PUT, token, &path, Some(&plugin)).await?;
    Ok(Some(PLUGIN_VERSION))
}

fn is_built_in(answer: Result<Value, VaultError>) -> Result<bool, VaultError> {
    match answer {
        Ok(plugin) => Ok(plugin.pointer("/data/builtin").and_then(Value::as_bool).unwrap_or(false)),
        Err(error) if error.status() == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The password of `detektor` where people look for it: in `secret/ml/database`, and in the container with `psql`.
#[derive(Default)]
pub(super) struct PeoplesPassword {
    rotated_at: Option<String>,
    due: Option<Instant>,
}

// === impl PeoplesPassword ===

impl PeoplesPassword {
    /// Copies it when it has changed.
    pub(super) async fn follow(
        &mut self,
        vault: &Vault,
        settings: &Settings,
        containers: &[Container],
    ) -> anyhow::Result<()> {
        if self.due.is_some_and(|due| Instant::now() < due) {
            return Ok(());
        }
        let token = self.log_in(vault, settings).await?;
        let path = format!("database/static-creds/{PEOPLE}");
        let answer = vault.get(&token, &path).await?;
        let text = |name: &str| answer.get("data").and_then(|data| data.get(name)).and_then(Value::as_str);
        let (Some(password), Some(rotated_at)) = (text("password"), text("last_vault_rotation")) else {
            bail!("Vault's answer to {path} holds no password")
        };
        if self.rotated_at.as_deref() != Some(rotated_at) {
            let secret = json!({ "data": { "username": PEOPLE, "password": password } });
            vault.post(&token, "secret/data/ml/database", &secret).await.context("cannot write secret/ml/database")?;
            for container in containers.iter().filter(|container| container.name == PEOPLES_DATABASE) {
                let folder = settings.state.join(container.name).join("secrets");
                make_folder(&folder, 0o755)?;
                let file = folder.join("detektor-password");
                replace_file(&file, password.as_bytes(), 0o640, Some(container.group))?;
            }
            self.rotated_at = Some(rotated_at.to_owned());
        }
        // At 0 Vault is about to change it; and it may change its mind.
        let left = answer.pointer("/data/ttl").and_then(Value::as_u64).unwrap_or(0);
        self.due = Some(Instant::now() + Duration::from_secs(left).min(LOOK_AGAIN));
        Ok(())
    }

    async fn log_in(&self, vault: &Vault, settings: &Settings) -> anyhow::Result<String> {
        let file = settings.state.join(OWN_ROLE).join("vault-login.json");
        let login = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let login: ::vault::Login = serde_json::from_slice(&login).context("the steward's own login is broken")?;
        let wish = json!({ "role_id": login.role_id, "secret_id": login.secret_id });
        let answer = vault.post("", "auth/approle/login", &wish).await?;
        let token = answer.pointer("/auth/client_token").and_then(Value::as_str);
        token.map(ToOwned::to_owned).context("Vault's answer to a login holds no token")
    }
}
