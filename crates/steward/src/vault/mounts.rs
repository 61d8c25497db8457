//! Vault's engines, the login by `AppRole`, and the audit log.

use ::vault::{Vault, VaultError};
use http::Method;
use serde_json::{Value, json};

/// Mounts what is missing.
pub(super) async fn ensure(vault: &Vault, token: &str) -> Result<(), VaultError> {
    // The audit log first, so that what follows is in it.
    if !has(&vault.get(token, "sys/audit").await?, "file/") {
        let device = json!({ "type": "file", "options": { "file_path": "/vault/audit/audit.log" } });
        vault.call(Method::PUT, token, "sys/audit/file", Some(&device)).await?;
    }
    let mounts = vault.get(token, "sys/mounts").await?;
    let year = "8760h";
    for (path, engine) in [
        ("secret", json!({ "type": "kv", "options": { "version": "2" } })),
        ("pki", json!({ "type": "pki", "config": { "max_lease_ttl": year } })),
        ("database", json!({ "type": "database" })),
        ("transit", json!({ "type": "transit" })),
    ] {
        if !has(&mounts, &format!("{path}/")) {
            vault.post(token, &format!("sys/mounts/{path}"), &engine).await?;
        }
    }
    if !has(&vault.get(token, "sys/auth").await?, "approle/") {
        vault.post(token, "sys/auth/approle", &json!({ "type": "approle" })).await?;
    }
    Ok(())
}

fn has(list: &Value, path: &str) -> bool {
    list.get("data").and_then(|data| data.get(path)).is_some()
}
