//! Logins of Vault: a policy, an `AppRole` and a secret id for each container that has one.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ::secrets::{make_folder, replace_file};
use ::vault::{Login, Vault};
use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Map, Value, json};
use topology::{Instance, PLATFORM};

use crate::front_names::FrontNames;
use crate::names::{dns_names, peer_name};

/// The `AppRole` and the folder of the steward itself.
const STEWARD_ROLE: &str = topology::name::STEWARD;
/// Of the network that the container is in.
const ROUTES: &str = "/proc/net/route";
const STEWARD_POLICY: &str = r#"
path "database/static-creds/detektor" { capabilities = ["read"] }
path "database/rotate-role/detektor" { capabilities = ["update"] }
path "secret/data/ml/database" { capabilities = ["create", "update"] }
"#;
const TOOLS_POLICY: &str = r#"
path "secret/data/ml/*" { capabilities = ["read"] }
path "secret/metadata/ml/*" { capabilities = ["read", "list"] }
"#;

/// Writes a policy and an `AppRole` for each container that has a login, and removes those of services, which there were before.
/// Logins count from the steward's own networks alone, in which all those containers are.
pub(super) async fn ensure_roles(
    vault: &Vault,
    token: &str,
    containers: &[Instance],
    front_names: &FrontNames,
) -> anyhow::Result<()> {
    let networks = own_networks()?;
    let mut policies = vec![(STEWARD_ROLE, STEWARD_POLICY.to_owned())];
    let services = containers.iter().filter(|one| one.third_party.is_none());
    policies.extend(services.map(|one| (one.name, policy(one, front_names))));
    let tools = containers.iter().filter(|one| one.third_party.is_some_and(|it| it.reads_secrets));
    policies.extend(tools.map(|one| (one.name, TOOLS_POLICY.to_owned())));
    for (name, policy) in &policies {
        let path = format!("sys/policies/acl/{name}");
        vault.call(Method::PUT, token, &path, Some(&json!({ "policy": policy }))).await?;
        vault.post(token, &format!("auth/approle/role/{name}"), &role(name, &networks)).await?;
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
/// its service or has another made.
fn policy(container: &Instance, front_names: &FrontNames) -> String {
    let mut parameters: Map<String, Value> =
        names(container, front_names).names().into_iter().map(|(name, value)| (name, json!([value]))).collect();
    // Any key.
    parameters.insert("csr".to_owned(), json!([]));
    let sign = json!({ "capabilities": ["update"], "allowed_parameters": parameters });
    let mut paths = Map::from_iter([(format!("pki/sign/{}", container.name), sign)]);
    let service = container.workload.name;
    if PLATFORM.rotated_roles().any(|role| role == service) {
        paths.insert(format!("database/static-creds/{service}"), json!({ "capabilities": ["read"] }));
        // A database that was restored has the password of then.
        paths.insert(format!("database/rotate-role/{service}"), json!({ "capabilities": ["update"] }));
    }
    json!({ "path": paths }).to_string()
}

/// A login without its secrets: the names of a container.
fn names(container: &Instance, front_names: &FrontNames) -> Login {
    Login {
        role: container.name.to_owned(),
        common_name: container.workload.name.to_owned(),
        name: peer_name(container).to_string(),
        dns_names: dns_names(container, front_names),
        ..Login::default()
    }
}

/// `networks`, in CIDR notation, are those from which its secret id and its tokens are good.
fn role(name: &str, networks: &[String]) -> Value {
    json!({
        "secret_id_bound_cidrs": networks,
        "token_bound_cidrs": networks,
        "token_policies": [name],
        "token_no_default_policy": true,
        "token_type": "batch",
        "token_ttl": "10m",
        "token_max_ttl": "10m",
        "secret_id_ttl": "168h",
    })
}

/// Makes a new secret id for every container that has a login, and for the steward. The one before is destroyed once the new one is
/// in its file: who read that file a moment before is refused, reads it again, and is let in.
pub(super) async fn renew(
    vault: &Vault,
    token: &str,
    containers: &[Instance],
    front_names: &FrontNames,
    state: &Path,
) -> anyhow::Result<()> {
    for container in containers {
        if container.third_party.is_some_and(|it| !it.reads_secrets) {
            continue;
        }
        let (login, accessor) = make_login(vault, token, names(container, front_names)).await?;
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
        destroy_others(vault, token, container.name, &accessor).await?;
    }
    let own = Login { role: STEWARD_ROLE.to_owned(), ..Login::default() };
    let (own, accessor) = make_login(vault, token, own).await?;
    replace_file(&steward_login_file(state), &serde_json::to_vec(&own)?, 0o600, None)?;
    destroy_others(vault, token, STEWARD_ROLE, &accessor).await?;
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

/// With a new secret id, and by what Vault calls that one.
async fn make_login(vault: &Vault, token: &str, login: Login) -> anyhow::Result<(Login, String)> {
    let path = format!("auth/approle/role/{}", login.role);
    let text = |answer: &Value, pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let role_id = vault.get(token, &format!("{path}/role-id")).await?;
    let role_id = text(&role_id, "/data/role_id").context("Vault's answer holds no role id")?;
    let answer = vault.post(token, &format!("{path}/secret-id"), &json!({})).await?;
    let secret_id = text(&answer, "/data/secret_id").context("Vault's answer holds no secret id")?;
    let accessor = text(&answer, "/data/secret_id_accessor").context("Vault's answer holds no accessor")?;
    Ok((Login { role_id, secret_id, ..login }, accessor))
}

/// Destroys every secret id of a role but one.
async fn destroy_others(vault: &Vault, token: &str, role: &str, kept: &str) -> anyhow::Result<()> {
    let path = format!("auth/approle/role/{role}");
    let listed = vault.get(token, &format!("{path}/secret-id?list=true")).await?;
    let accessors = listed.pointer("/data/keys").and_then(Value::as_array).into_iter().flatten();
    for accessor in accessors.filter_map(Value::as_str).filter(|accessor| *accessor != kept) {
        let one = json!({ "secret_id_accessor": accessor });
        vault.post(token, &format!("{path}/secret-id-accessor/destroy"), &one).await?;
    }
    Ok(())
}

/// The networks that this process is in, in CIDR notation.
fn own_networks() -> anyhow::Result<Vec<String>> {
    let routes = fs::read_to_string(ROUTES).with_context(|| format!("cannot read {ROUTES}"))?;
    let networks = connected_networks(&routes);
    ensure!(!networks.is_empty(), "this container is in no network from which a login could come");
    Ok(networks)
}

/// Of the kernel's table of routes those that lead through no gateway, save the default route.
fn connected_networks(routes: &str) -> Vec<String> {
    let mut networks: Vec<String> = routes.lines().skip(1).filter_map(connected_network).collect();
    networks.sort();
    networks.dedup();
    networks
}

/// Interface, destination, gateway, flags, reference count, use, metric, mask: numbers in hexadecimal, addresses in network byte
/// order as the machine reads them.
fn connected_network(route: &str) -> Option<String> {
    let fields: Vec<&str> = route.split_whitespace().collect();
    let address = |at: usize| Some(u32::from_be(u32::from_str_radix(fields.get(at)?, 16).ok()?));
    let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    let is_connected = gateway == 0 && mask != 0;
    is_connected.then(|| format!("{}/{}", Ipv4Addr::from(destination), mask.count_ones()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_count_from_connected_networks_alone() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010013AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth1\t80611EAC\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0\n";
        let networks = connected_networks(routes);
        assert_eq!(networks, ["172.19.0.0/16", "172.30.97.128/25"]);
        let role = role("gateway-a", &networks);
        assert_eq!((&role["secret_id_bound_cidrs"], &role["token_bound_cidrs"]), (&json!(networks), &json!(networks)));
    }

    #[test]
    fn a_container_reads_the_password_of_its_service_and_signs_its_own_names() {
        let policy = |name: &str| -> Value {
            let container = PLATFORM.instances().find(|container| container.name == name).unwrap();
            serde_json::from_str(&policy(&container, &"ml.example.org,192.0.2.7".parse().unwrap())).unwrap()
        };
        let balancer = &policy("balancer-a")["path"];
        assert_eq!(balancer.as_object().unwrap().len(), 1, "{balancer}");
        let signed = &balancer["pki/sign/balancer-a"]["allowed_parameters"];
        assert_eq!(signed["common_name"], json!(["balancer"]));
        assert_eq!(signed["uri_sans"], json!(["spiffe://rampart.internal/svc/balancer/balancer-a"]));
        assert_eq!(signed["ip_sans"], json!(["127.0.0.1,192.0.2.7"]));
        let hosts = "balancer.rampart.internal,balancer-a,localhost,nebula,front,ml.example.org";
        assert_eq!(signed["alt_names"], json!([hosts]));
        let gateway = &policy("gateway-b")["path"];
        assert_eq!(gateway["database/static-creds/gateway"], json!({ "capabilities": ["read"] }));
        assert_eq!(gateway["pki/sign/gateway-b"]["allowed_parameters"].get("ip_sans"), None, "{gateway}");
    }
}
