//! Vault's database engine, which rotates the passwords of roles in PostgreSQL.

use std::{fs, time::Duration};

use ::vault::{Vault, VaultError};
use anyhow::{Context as _, bail};
use bootstrap::say;
use http::Method;
use secrets::{make_folder, replace_file};
use serde_json::{Value, json};
use tokio::time::Instant;
use topology::{HUMAN_DATABASE_HOST, HUMAN_DATABASE_ROLE, Instance, PLATFORM};

use super::logins;
use crate::Arguments;

const PLUGIN: &str = "postgresql-database-plugin";
/// The version of Vault whose source the plugin was built from.
const PLUGIN_VERSION: &str = "v1.21.2";
const CONNECTION: &str = "detektor";
/// The host name is in the certificate of every node; the files are those of Vault's container.
const CONNECTION_URL: &str = "postgresql://{{username}}:{{password}}@detektor-postgres:5432/detektor?sslmode=verify-full\
    &sslrootcert=/identity/ca.pem&sslcert=/identity/certificate.pem&sslkey=/identity/key.pem&connect_timeout=5";

/// An operator may rotate a password by hand, before it is due.
const RECHECK_PERIOD: Duration = Duration::from_secs(60);

/// The connection, and a static role for each database role. Creating one changes its password at once.
pub(super) async fn ensure(vault: &Vault, token: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let version = ensure_plugin(vault, token, arguments).await?;
    let file = arguments.state.join("steward/postgres/vault-password");
    let password = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut connection = json!({
        "plugin_name": PLUGIN,
        "allowed_roles": PLATFORM.rotated_roles().collect::<Vec<_>>(),
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
    for role in PLATFORM.rotated_roles() {
        ensure_static_role(vault, token, role, arguments.database_rotation_s).await?;
    }
    Ok(())
}

async fn ensure_static_role(vault: &Vault, token: &str, role: &str, period_s: u32) -> anyhow::Result<()> {
    let path = format!("database/static-roles/{role}");
    let role_now = found(vault.get(token, &path).await)?;
    let period_now = role_now.and_then(|role| role.pointer("/data/rotation_period").and_then(Value::as_u64));
    if period_now != Some(period_s.into()) {
        let definition = json!({ "db_name": CONNECTION, "username": role, "rotation_period": format!("{period_s}s") });
        vault.post(token, &path, &definition).await?;
    }
    Ok(())
}

/// Vault runs a plugin only under the digest that it was registered with. Returns the version, unless it is built in.
async fn ensure_plugin(vault: &Vault, token: &str, arguments: &Arguments) -> anyhow::Result<Option<&'static str>> {
    let path = format!("sys/plugins/catalog/database/{PLUGIN}");
    let present = found(vault.get(token, &path).await)?;
    if present.is_some_and(|plugin| plugin.pointer("/data/builtin").and_then(Value::as_bool) == Some(true)) {
        return Ok(None);
    }
    let listed = fs::read_to_string(&arguments.vault_plugin_digest)
        .with_context(|| format!("cannot read {}", arguments.vault_plugin_digest.display()))?;
    let Some(digest) = listed.split_whitespace().next() else {
        bail!("this Vault has no {PLUGIN} built in, and its image brings none: see RAMPART_VAULT_IMAGE")
    };
    let plugin = json!({ "sha256": digest, "command": PLUGIN, "version": PLUGIN_VERSION });
    vault.call(Method::PUT, token, &path, Some(&plugin)).await?;
    Ok(Some(PLUGIN_VERSION))
}

/// What Vault has at a path, if it has it.
fn found(answer: Result<Value, VaultError>) -> Result<Option<Value>, VaultError> {
    match answer {
        Err(error) if error.status() == Some(404) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Copies the password of the role `detektor` to `secret/ml/database` and into the container with `psql`.
#[derive(Default)]
pub(super) struct DetektorPassword {
    /// Whether Vault has made one since this start: the database may have been restored, and then refuses the one before. Services notice
    /// that by themselves.
    is_of_this_start: bool,
    rotated_at: Option<String>,
    next_check: Option<Instant>,
}

// === impl DetektorPassword ===

impl DetektorPassword {
    /// Copies the password when Vault has rotated it.
    pub(super) async fn copy_if_rotated(
        &mut self,
        vault: &Vault,
        arguments: &Arguments,
        containers: &[Instance],
    ) -> anyhow::Result<()> {
        if self.next_check.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let token = logins::log_in_as_steward(vault, &arguments.state).await?;
        let path = format!("database/static-creds/{HUMAN_DATABASE_ROLE}");
        let mut answer = vault.get(&token, &path).await?;
        if !self.is_of_this_start {
            let rotate = format!("database/rotate-role/{HUMAN_DATABASE_ROLE}");
            match vault.post(&token, &rotate, &json!({})).await {
                Ok(_) => {
                    self.is_of_this_start = true;
                    answer = vault.get(&token, &path).await?;
                }
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    say(&format!("vault: the password of {HUMAN_DATABASE_ROLE} is not changed yet: {error:#}"));
                }
            }
        }
        let text = |name: &str| answer.get("data").and_then(|data| data.get(name)).and_then(Value::as_str);
        let (Some(password), Some(rotated_at)) = (text("password"), text("last_vault_rotation")) else {
            bail!("Vault's answer to {path} holds no password")
        };
        if self.rotated_at.as_deref() != Some(rotated_at) {
            let secret = json!({ "data": { "username": HUMAN_DATABASE_ROLE, "password": password } });
            vault.post(&token, "secret/data/ml/database", &secret).await.context("cannot write secret/ml/database")?;
            for container in containers.iter().filter(|container| container.name == HUMAN_DATABASE_HOST) {
                let folder = arguments.state.join(container.name).join("secrets");
                make_folder(&folder, 0o755)?;
                let file = folder.join("detektor-password");
                replace_file(&file, password.as_bytes(), 0o640, Some(container.workload.user))?;
            }
            self.rotated_at = Some(rotated_at.to_owned());
        }
        // At 0 Vault is about to rotate it.
        let ttl_s = answer.pointer("/data/ttl").and_then(Value::as_u64).unwrap_or(0);
        self.next_check = Some(Instant::now() + Duration::from_secs(ttl_s).min(RECHECK_PERIOD));
        Ok(())
    }
}
