//! Logins of Vault: a policy and an `AppRole` for each service, and a secret id for each container.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ::secrets::{make_folder, replace_file};
use ::vault::{Login, Vault};
use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use topology::{Instance, PLATFORM};

use crate::names::{dns_names, peer_name};

/// The `AppRole` and the folder of the steward itself.
const STEWARD_ROLE: &str = topology::name::STEWARD;
const STEWARD_POLICY: &str = r#"
path "database/static-creds/detektor" { capabilities = ["read"] }
path "secret/data/ml/database" { capabilities = ["create", "update"] }
"#;
const TOOLS_POLICY: &str = r#"
path "secret/data/ml/*" { capabilities = ["read"] }
path "secret/metadata/ml/*" { capabilities = ["read", "list"] }
"#;

/// Writes a policy and an `AppRole` for each service that has a login.
pub(super) async fn ensure_roles(vault: &Vault, token: &str, containers: &[Instance]) -> anyhow::Result<()> {
    let mut policies = vec![(STEWARD_ROLE, STEWARD_POLICY.to_owned())];
    let services: BTreeSet<&str> =
        containers.iter().filter(|one| one.third_party.is_none()).map(|one| one.workload.name).collect();
    policies.extend(services.into_iter().map(|service| (service, policy(service))));
    let tools = containers.iter().filter(|one| one.third_party.is_some_and(|it| it.reads_secrets));
    policies.extend(tools.map(|one| (one.workload.name, TOOLS_POLICY.to_owned())));
    for (name, policy) in policies {
        let path = format!("sys/policies/acl/{name}");
        vault.call(Method::PUT, token, &path, Some(&json!({ "policy": policy }))).await?;
        vault.post(token, &format!("auth/approle/role/{name}"), &role(name)).await?;
    }
    Ok(())
}

fn policy(service: &str) -> String {
    let mut policy = format!("path \"pki/sign/{service}\" {{ capabilities = [\"update\"] }}\n");
    if PLATFORM.rotated_roles().any(|role| role == service) {
        policy += &format!("path \"database/static-creds/{service}\" {{ capabilities = [\"read\"] }}\n");
    }
    policy
}

fn role(name: &str) -> Value {
    json!({
        "token_policies": [name],
        "token_no_default_policy": true,
        "token_type": "batch",
        "token_ttl": "10m",
        "token_max_ttl": "10m",
        "secret_id_ttl": "168h",
    })
}

/// Makes a new secret id for every container that has a login, and for the steward.
pub(super) async fn renew(vault: &Vault, token: &str, containers: &[Instance], state: &Path) -> anyhow::Result<()> {
    for container in containers {
        if container.third_party.is_some_and(|it| !it.reads_secrets) {
            continue;
        }
        let login = make_login(vault, token, container.workload.name, container.name).await?;
        let files = if container.third_party.is_none() {
            let login = Login { name: peer_name(container).to_string(), dns_names: dns_names(container), ..login };
            vec![("vault-login.json", serde_json::to_vec(&login)?)]
        } else {
            vec![("vault-role-id", login.role_id.into_bytes()), ("vault-secret-id", login.secret_id.into_bytes())]
        };
        let secrets = state.join(container.name).join("secrets");
        make_folder(&secrets, 0o755)?;
        for (file, content) in files {
            replace_file(&secrets.join(file), &content, 0o640, Some(container.workload.user))?;
        }
    }
    let own = make_login(vault, token, STEWARD_ROLE, STEWARD_ROLE).await?;
    replace_file(&steward_login_file(state), &serde_json::to_vec(&own)?, 0o600, None)?;
    Ok(())
}

/// Logs in as the steward: a token with the rights of its own policy.
pub(super) async fn log_in_as_steward(vault: &Vault, state: &Path) -> anyhow::Result<String> {
    let file = steward_login_file(state);
    let login = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let login: Login = serde_json::from_slice(&login).context("the steward's own login is broken")?;
    let secret = json!({ "role_id": login.role_id, "secret_id": login.secret_id });
    let answer = vault.post("", "auth/approle/login", &secret).await?;
    let token = answer.pointer("/auth/client_token").and_then(Value::as_str);
    token.map(ToOwned::to_owned).context("Vault's answer to a login holds no token")
}

fn steward_login_file(state: &Path) -> PathBuf {
    state.join(STEWARD_ROLE).join("vault-login.json")
}

async fn make_login(vault: &Vault, token: &str, role: &str, container: &str) -> anyhow::Result<Login> {
    let path = format!("auth/approle/role/{role}");
    let text = |answer: &Value, pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let role_id = vault.get(token, &format!("{path}/role-id")).await?;
    let role_id = text(&role_id, "/data/role_id").context("Vault's answer holds no role id")?;
    let metadata = json!({ "metadata": json!({ "container": container }).to_string() });
    let secret_id = vault.post(token, &format!("{path}/secret-id"), &metadata).await?;
    let secret_id = text(&secret_id, "/data/secret_id").context("Vault's answer holds no secret id")?;
    Ok(Login { role: role.to_owned(), role_id, secret_id, name: String::new(), dns_names: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_reads_its_own_password_and_signs_its_own_name() {
        assert_eq!(policy("balancer").lines().count(), 1);
        let gateway = policy("gateway");
        assert!(gateway.contains("pki/sign/gateway\"") && gateway.contains("static-creds/gateway\""), "{gateway}");
    }
}
