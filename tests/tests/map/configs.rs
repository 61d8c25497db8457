//! Configuration files of the services: what they say of ports, peers, databases and each other.

use std::collections::BTreeSet;

use topology::{Map, Service, name};

use crate::checkout::{Checkout, addresses, words};

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    for service in map.services {
        let name = service.workload.name;
        manifest(checkout, service);
        defaults(map, checkout, service, &format!("crates/{name}/config/default.toml"));
        container(map, checkout, service, &format!("docker/rampart/config/{name}.toml"));
    }
}

fn manifest(checkout: &mut Checkout, service: &Service) {
    let name = service.workload.name;
    let file = format!("crates/{name}/Cargo.toml");
    let manifest = checkout.toml(&file);
    let binaries = manifest["bin"].as_array().into_iter().flatten().filter_map(|binary| binary["name"].as_str());
    let binaries: BTreeSet<&str> = binaries.collect();
    checkout.same(&file, "package", [name], manifest["package"]["name"].as_str());
    checkout.same(&file, "binaries", [service.binary()], binaries);
}

fn defaults(map: &Map, checkout: &mut Checkout, service: &Service, file: &str) {
    let config = checkout.toml(file);
    for section in ["listen", "admin"] {
        if !config[section]["peers"].is_null() {
            checkout.fault(file, format_args!("{section}.peers is what the map says, and not said here"));
        }
    }
    let role = service.database.map(|database| database.role);
    checkout.same(file, "database.user", role, config["database"]["user"].as_str());
    if service.workload.name == name::GATEWAY {
        let services = map.services.iter().map(|service| service.workload.name);
        checkout.same(file, "tokens.audiences", services, words(&config["tokens"]["audiences"]));
    }
}

fn container(map: &Map, checkout: &mut Checkout, service: &Service, file: &str) {
    let config = checkout.toml(file);
    let is_edge = service.workload.name == name::BALANCER;
    let own = if is_edge { "front" } else { "listen" };
    for (section, port) in [own, "admin"].iter().zip(service.workload.sockets.iter().map(|socket| socket.port)) {
        let what = format!("{section}.address");
        checkout.same(file, what, [format!("0.0.0.0:{port}")], config[section]["address"].as_str());
        if !config[section]["peers"].is_null() {
            checkout.fault(file, format_args!("{section}.peers is what the map says, and not said here"));
        }
    }
    let role = service.database.map(|database| database.role);
    checkout.same(file, "vault.database_role", role, config["vault"]["database_role"].as_str());
    if is_edge {
        checkout.same(file, "pools", service.upstreams, words(&config["pools"]));
        for pool in service.upstreams {
            let replicas = config["pools"][pool]["replicas"].as_array();
            // As text, since the order of keys in a JSON object means nothing.
            let replicas =
                replicas.into_iter().flatten().map(|replica| format!("{} at {}", replica["name"], replica["address"]));
            let wanted = addresses(map, pool).into_iter().map(|address| {
                let name = address.split(':').next().unwrap_or_default();
                format!("{name:?} at {address:?}")
            });
            checkout.same(file, format_args!("pools.{pool}"), wanted, replicas);
        }
    } else {
        let gateways = service.upstreams.contains(&name::GATEWAY).then(|| addresses(map, name::GATEWAY));
        checkout.same(
            file,
            "gateway.addresses",
            gateways.into_iter().flatten(),
            words(&config["gateway"]["addresses"]),
        );
    }
    if service.workload.name == name::SERVING {
        let registry = config["models"]["registry"]["address"].as_str();
        checkout.same(file, "models.registry.address", addresses(map, name::MLFLOW), registry);
    }
}
