//! Vault's intermediate CA, signed by the root, and what it may sign for each service.

use ::vault::Vault;
use anyhow::{Context as _, bail};
use authority::Authority;
use bootstrap::say;
use serde_json::{Value, json};
use time::OffsetDateTime;
use topology::Instance;

use crate::front_names::FrontNames;
use crate::names::{dns_names, peer_name};

const INTERMEDIATE_LIFETIME: time::Duration = time::Duration::days(365);
/// Renewed well before leaves would outlive it.
const INTERMEDIATE_LEFT_MIN: time::Duration = time::Duration::days(60);

/// Ensures an intermediate of the root, and a role for each container of a service.
pub(super) async fn ensure(
    vault: &Vault,
    token: &str,
    authority: &Authority,
    containers: &[Instance],
    front_names: &FrontNames,
    lifetime_s: u32,
) -> anyhow::Result<()> {
    if !has_valid_intermediate(vault, token, authority).await? {
        make_intermediate(vault, token, authority).await?;
        say("Vault has an intermediate CA");
    }
    for container in containers.iter().filter(|container| container.third_party.is_none()) {
        vault.post(token, &format!("pki/roles/{}", container.name), &role(container, front_names, lifetime_s)).await?;
    }
    Ok(())
}

async fn has_valid_intermediate(vault: &Vault, token: &str, authority: &Authority) -> anyhow::Result<bool> {
    let issuer = match vault.get(token, "pki/issuer/default").await {
        Ok(issuer) => issuer,
        // "no default issuer currently configured"
        Err(error) if error.status().is_some_and(|status| status < 501) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let chain = issuer.pointer("/data/ca_chain").and_then(Value::as_array);
    let is_of_root =
        chain.into_iter().flatten().filter_map(Value::as_str).any(|pem| pem.trim() == authority.pem().trim());
    let Some(pem) = issuer.pointer("/data/certificate").and_then(Value::as_str) else { return Ok(false) };
    let not_after = identity::certificate_pem_not_after(pem.as_bytes()).context("Vault's intermediate")?;
    Ok(is_of_root && not_after - OffsetDateTime::now_utc() > INTERMEDIATE_LEFT_MIN)
}

/// The key is made in Vault and never leaves it.
async fn make_intermediate(vault: &Vault, token: &str, authority: &Authority) -> anyhow::Result<()> {
    let subject = json!({ "common_name": "Rampart services CA", "key_type": "ec", "key_bits": 256 });
    let answer = vault.post(token, "pki/intermediate/generate/internal", &subject).await?;
    let request = answer.pointer("/data/csr").and_then(Value::as_str).context("Vault's answer holds no request")?;
    let signed = authority.sign_intermediate(request, OffsetDateTime::now_utc(), INTERMEDIATE_LIFETIME)?;
    let bundle = json!({ "certificate": format!("{signed}\n{}", authority.pem()) });
    let imported = vault.post(token, "pki/intermediate/set-signed", &bundle).await?;
    // The issuer that has a key is the intermediate; the root was imported without one.
    let mapping =
        imported.pointer("/data/mapping").and_then(Value::as_object).context("Vault's answer holds no mapping")?;
    let Some((issuer, _)) = mapping.iter().find(|(_, key)| key.as_str().is_some_and(|key| !key.is_empty())) else {
        bail!("Vault did not import the intermediate with its key")
    };
    vault.post(token, "pki/config/issuers", &json!({ "default": issuer })).await?;
    Ok(())
}

/// Exactly the names of the container, and nothing of another. The signing request says none: names are parameters, which the policy of
/// the container's login compares too, and as a whole (see `logins`). A role by itself would let in any address, and each of
/// its names as the common name.
fn role(container: &Instance, front_names: &FrontNames, lifetime_s: u32) -> Value {
    let is_address = |name: &String| name.parse::<std::net::IpAddr>().is_ok();
    let names = dns_names(container, front_names);
    let (addresses, mut domains): (Vec<String>, Vec<String>) = names.into_iter().partition(is_address);
    // The common name is held to be a domain, too.
    domains.push(container.workload.name.to_owned());
    json!({
        "allowed_domains": domains,
        "allow_bare_domains": true,
        "allow_subdomains": false,
        "allow_localhost": false,
        "allow_ip_sans": !addresses.is_empty(),
        "use_csr_common_name": false,
        "use_csr_sans": false,
        "allow_glob_domains": false,
        "allow_wildcard_certificates": false,
        "allowed_uri_sans": [peer_name(container).to_string()],
        "allowed_other_sans": [],
        "allowed_serial_numbers": [],
        "require_cn": true,
        "cn_validations": ["hostname"],
        "key_type": "ec",
        "key_bits": 256,
        "key_usage": ["DigitalSignature"],
        "server_flag": true,
        "client_flag": true,
        "no_store": true,
        "not_before_duration": "60s",
        "ttl": format!("{lifetime_s}s"),
        "max_ttl": format!("{lifetime_s}s"),
    })
}

#[cfg(test)]
mod tests {
    use topology::PLATFORM;

    use super::*;

    #[test]
    fn a_role_signs_the_names_of_its_own_container_alone() {
        let front_names: FrontNames = "ml.example.org".parse().unwrap();
        let container = |name: &str| PLATFORM.instances().find(|container| container.name == name).unwrap();
        let role = |name: &str| role(&container(name), &front_names, 60);
        let serving = role("ml-serving-primary");
        assert_eq!(serving["allowed_uri_sans"], json!(["spiffe://rampart.internal/svc/serving/ml-serving-primary"]));
        assert_eq!((&serving["require_cn"], &serving["cn_validations"]), (&true.into(), &json!(["hostname"])));
        assert_eq!(serving["allowed_domains"], json!(["serving.rampart.internal", "ml-serving-primary", "serving"]));
        assert_eq!(serving["allow_ip_sans"], false);
        let balancer = role("balancer-a");
        assert_eq!(balancer["allow_ip_sans"], true);
        assert!(balancer["allowed_domains"].as_array().unwrap().contains(&"ml.example.org".into()), "{balancer}");
    }
}
