//! Logins of Vault: a policy, an `AppRole` and a secret id for each container that has one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ::secrets::{make_folder, replace_file};
use ::vault::{Login, Vault};
use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};
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

/// Writes a policy and an `AppRole` for each container that has a login, and removes those of services, which there were before.
pub(super) async fn ensure_roles(vault: &Vault, token: &str, containers: &[Instance]) -> anyhow::Result<()> {
    let mut policies = vec![(STEWARD_ROLE, STEWARD_POLICY.to_owned())];
    let services = containers.iter().filter(|one| one.third_party.is_none());
    policies.extend(services.map(|one| (one.name, policy(one))));
    let tools = containers.iter().filter(|one| one.third_party.is_some_and(|it| it.reads_secrets));
    policies.extend(tools.map(|one| (one.name, TOOLS_POLICY.to_owned())));
    for (name, policy) in &policies {
        let path = format!("sys/policies/acl/{name}");
        vault.call(Method::PUT, token, &path, Some(&json!({ "policy": policy }))).await?;
        vault.post(token, &format!("auth/approle/role/{name}"), &role(name)).await?;
    }
    let services = topology::SERVICES.iter().map(|service| service.workload.name);
    for name in services.filter(|name| policies.iter().all(|(kept, _)| kept != name)) {
        for path in ["auth/approle/role", "sys/policies/acl", "pki/roles"] {
            vault.call(Method::DELETE, token, &format!("{path}/{name}"), None).await?;
        }
    }
    Ok(())
}

/// A container has exactly its own names signed, each of these parameters as it must be and no other, and reads the password of
/// its service.
fn policy(container: &Instance) -> String {
    let mut parameters: Map<String, Value> =
        names(container).names().into_iter().map(|(name, value)| (name, json!([value]))).collect();
    // Any key.
    parameters.insert("csr".to_owned(), json!([]));
    let sign = json!({ "capabilities": ["update"], "allowed_parameters": parameters });
    let mut paths = Map::from_iter([(format!("pki/sign/{}", container.name), sign)]);
    let service = container.workload.name;
    if PLATFORM.rotated_roles().any(|role| role == service) {
        paths.insert(format!("database/static-creds/{service}"), json!({ "capabilities": ["read"] }));
    }
    json!({ "path": paths }).to_string()
}

/// A login without its secrets: the names of a container.
fn names(container: &Instance) -> Login {
    Login {
        role: container.name.to_owned(),
        common_name: container.workload.name.to_owned(),
        name: peer_name(container).to_string(),
        dns_names: dns_names(container),
        ..Login::default()
    }
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
        let login = make_login(vault, token, names(container)).await?;
        let files = if container.third_party.is_none() {
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
    let own = Login { role: STEWARD_ROLE.to_owned(), ..Login::default() };
    let own = make_login(vault, token, own).await?;
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

/// With a new secret id.
async fn make_login(vault: &Vault, token: &str, login: Login) -> anyhow::Result<Login> {
    let path = format!("auth/approle/role/{}", login.role);
    let text = |answer: &Value, pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let role_id = vault.get(token, &format!("{path}/role-id")).await?;
    let role_id = text(&role_id, "/data/role_id").context("Vault's answer holds no role id")?;
    let secret_id = vault.post(token, &format!("{path}/secret-id"), &json!({})).await?;
    let secret_id = text(&secret_id, "/data/secret_id").context("Vault's answer holds no secret id")?;
    Ok(Login { role_id, secret_id, ..login })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_reads_the_password_of_its_service_and_signs_its_own_names() {
        let policy = |name: &str| -> Value {
            let container = PLATFORM.instances().find(|container| container.name == name).unwrap();
            serde_json::from_str(&policy(&container)).unwrap()
        };
        let balancer = &policy("balancer-a")["path"];
        assert_eq!(balancer.as_object().unwrap().len(), 1, "{balancer}");
        let signed = &balancer["pki/sign/balancer-a"]["allowed_parameters"];
        assert_eq!(signed["common_name"], json!(["balancer"]));
        assert_eq!(signed["uri_sans"], json!(["spiffe://rampart.internal/svc/balancer/balancer-a"]));
        assert_eq!(signed["ip_sans"], json!(["127.0.0.1"]));
        let gateway = &policy("gateway-b")["path"];
        assert_eq!(gateway["database/static-creds/gateway"], json!({ "capabilities": ["read"] }));
        assert_eq!(gateway["pki/sign/gateway-b"]["allowed_parameters"].get("ip_sans"), None, "{gateway}");
    }
}
