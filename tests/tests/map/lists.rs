//! Prometheus, the database's roles, and lists of services elsewhere.

use topology::{Map, name};

use crate::{
    checkout::{Checkout, between, words},
    generated::jobs,
};

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    prometheus(map, checkout);

    let file = "docker/postgres/make-roles";
    let text = checkout.text(file);
    let text = text.replace("\"$admin\"", between(&text, "\nadmin=", "\n"));
    let roles = between(&text, "/roles/vault ]]; then\n    for role in ", ";").split_whitespace();
    checkout.same(file, "roles that Vault rotates", map.rotated_roles(), roles);

    let published = || map.third_parties.iter().flat_map(|third_party| third_party.published);
    for (file, end) in [("scripts/lib/settings.sh", ' '), (".env.example", '=')] {
        let text = checkout.text(file);
        let lines = text.lines().map(|line| line.trim_start_matches('#'));
        let ports = lines.filter_map(|line| Some(line.strip_prefix("RAMPART_PORT_")?.split(end).next()?.to_owned()));
        checkout.same(file, "published ports", published(), ports.collect::<Vec<_>>());
    }

    let names = || map.services.iter().map(|service| service.workload.name);
    for file in ["Cargo.toml", "tests/Cargo.toml"] {
        let manifest = checkout.toml(file);
        let dependencies =
            [words(&manifest["workspace"]["dependencies"]), words(&manifest["dev-dependencies"])].concat();
        let crates = dependencies.into_iter().filter(|name| names().any(|service| service == name));
        checkout.same(file, "crates of services", names(), crates);
    }
    for (file, before, after) in [
        ("tests/tests/matrix.rs", "", "::declared_routes()"),
        ("tests/tests/map/policies.rs", "", "::declared_routes()"),
        ("tests/tests/ports.rs", "\"", "\" => Calls {"),
        ("docs/ARCHITECTURE.md", "`crates/", "`"),
    ] {
        // The front door has no peers: what is about calls of peers does not name the balancer.
        let is_of_peers = file.ends_with("policies.rs") || file.ends_with("ports.rs");
        let wanted = map.services.iter().filter(|service| !is_of_peers || !service.peers.is_empty());
        let text = checkout.text(file);
        for name in wanted.map(|service| service.workload.name) {
            if !text.contains(&format!("{before}{name}{after}")) {
                checkout.fault(file, format_args!("does not name {name}"));
            }
        }
    }

    let file = "deny.toml";
    let bans = checkout.toml(file);
    let sqlx = bans["bans"]["deny"].as_array().into_iter().flatten().filter(|ban| ban["crate"] == "sqlx");
    let wrappers = sqlx.flat_map(|ban| words(&ban["wrappers"])).filter(|name| names().any(|service| service == name));
    let with_schema = map.services.iter().filter(|service| service.database.is_some());
    checkout.same(file, "wrappers of sqlx", with_schema.map(|service| service.workload.name), wrappers);

    let file = "scripts/check-tidy";
    let text = checkout.text(file);
    let services = between(&text, "\nSERVICES = {", "}").split(", ").map(|name| name.trim_matches('"').to_owned());
    checkout.same(file, "SERVICES", names(), services);
}

/// Each job asks the targets of its file, and a service by its service's name.
fn prometheus(map: &Map, checkout: &mut Checkout) {
    let file = "monitoring/prometheus/prometheus.yml";
    let config = checkout.yaml(file);
    let scrapes = config["scrape_configs"].as_array().cloned().unwrap_or_default();
    checkout.same(file, "jobs", jobs(map).keys(), scrapes.iter().filter_map(|scrape| scrape["job_name"].as_str()));
    for scrape in &scrapes {
        let job = scrape["job_name"].as_str().unwrap_or_default();
        let files =
            scrape["file_sd_configs"].as_array().into_iter().flatten().flat_map(|source| words(&source["files"]));
        checkout.same(file, format_args!("targets of {job}"), [format!("targets/{job}.yml")], files);
        let asked = |service: &&topology::Service| service.workload.scrapes.iter().any(|(name, _)| *name == job);
        let server = map.services.iter().find(asked).map(|service| identity::dns_name(service.workload.name));
        checkout.same(file, format_args!("server_name of {job}"), server, scrape["tls_config"]["server_name"].as_str());
    }
    let alerts = "monitoring/prometheus/rules/ml-production-alerts.yml";
    let text = checkout.text(alerts);
    let wanted = map.services.iter().flat_map(|service| service.workload.scrapes).map(|(job, _)| job);
    checkout.same(alerts, "jobs of MLTargetDown", wanted, between(&text, "up{job=~\"", "\"").split('|'));
    let managers = config["alerting"]["alertmanagers"].as_array().into_iter().flatten();
    let files = managers.flat_map(|manager| manager["file_sd_configs"].as_array().into_iter().flatten());
    let files: Vec<String> = files.flat_map(|source| words(&source["files"])).collect();
    checkout.same(file, "alertmanagers", [format!("targets/{}.yml", name::ALERTMANAGER)], files);
}
