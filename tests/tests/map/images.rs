//! The Dockerfiles: the user that each image runs as; and of `docker/rampart/Dockerfile` binaries, stages and state folders.

use std::collections::BTreeMap;

use serde_json::Value;
use topology::{Map, STEWARD, Service};

use crate::checkout::{Checkout, between};

const COMPOSE: &str = "docker-compose.yml";
const RAMPART: &str = "docker/rampart/Dockerfile";

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    let compose = checkout.yaml(COMPOSE);
    let builds = builds(&compose);
    let instances = map.instances().map(|instance| (instance.name, instance.workload.user));
    for (name, user) in instances.chain([(STEWARD.name, STEWARD.user)]) {
        // A container that is missing is a fault of the compose file.
        let Some(image) = compose["services"][name]["image"].as_str() else { continue };
        let Some((file, target)) = builds.get(image) else {
            checkout.fault(COMPOSE, format_args!("{name}: no service builds {image}"));
            continue;
        };
        let text = checkout.text(file);
        let found = user_of(&text, target.as_deref());
        if found.as_deref() != Some(&format!("{user}:{user}")) {
            checkout.fault(file, format_args!("{name} runs as {found:?}, and the map says {user}"));
        }
    }

    let text = checkout.text(RAMPART).replace("\\\n", " ");
    let binaries = map.services.iter().map(Service::binary).chain(["rampart".to_owned()]);
    checkout.same(RAMPART, "binaries", binaries, between(&text, "for name in ", ";").split_whitespace());
    for service in map.services {
        let (name, binary) = (service.workload.name, service.binary());
        let config = format!("/etc/rampart/{name}.toml");
        let command = format!("CMD [\"{binary}\", \"serve\", \"--config\", \"{config}\"]");
        if !stage(&text, name)
            .is_some_and(|stage| stage.contains(&command) && stage.contains(&format!("/out/{binary} ")))
        {
            checkout.fault(RAMPART, format_args!("no stage {name} has {binary} and runs it with {config}"));
        }
    }
    let folders = between(&text, "-m 0755 ", "\n").split_whitespace();
    checkout.same(RAMPART, "folders of the state", map.instances().map(|instance| instance.name), folders);
}

/// Image → its Dockerfile and stage.
fn builds(compose: &Value) -> BTreeMap<String, (String, Option<String>)> {
    let services = compose["services"].as_object().into_iter().flat_map(serde_json::Map::values);
    services
        .filter_map(|service| {
            let build = &service["build"];
            let context = build["context"].as_str()?.trim_start_matches('.').trim_start_matches('/');
            let file = build["dockerfile"].as_str().unwrap_or("Dockerfile");
            let file = if context.is_empty() { file.to_owned() } else { format!("{context}/{file}") };
            let target = build["target"].as_str().map(ToOwned::to_owned);
            Some((service["image"].as_str()?.to_owned(), (file, target)))
        })
        .collect()
}

/// The text of a stage, or of the last.
fn stage<'a>(dockerfile: &'a str, name: &str) -> Option<&'a str> {
    let end = format!(" AS {name}");
    dockerfile.split("\nFROM ").find(|stage| stage.lines().next().is_some_and(|line| line.ends_with(&end)))
}

fn user_of(dockerfile: &str, target: Option<&str>) -> Option<String> {
    let stage = match target {
        Some(target) => stage(dockerfile, target)?,
        None => dockerfile.split("\nFROM ").last()?,
    };
    stage.lines().filter_map(|line| line.strip_prefix("USER ")).next_back().map(ToOwned::to_owned)
}
