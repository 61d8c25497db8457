//! `docker-compose.yml`: containers, networks, published ports, users, and a volume of its own for each container.

use serde_json::{Value, json};
use topology::{Instance, Map, Network, STEWARD};

use crate::checkout::{Checkout, words};

const FILE: &str = "docker-compose.yml";
/// Makes a folder the steward's, as root and without a network, and ends.
const BOOTSTRAP: &str = "bootstrap";

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    let compose = checkout.yaml(FILE);
    let instances: Vec<Instance> = map.instances().collect();
    let names = || instances.iter().map(|instance| instance.name);
    let services = &compose["services"];
    checkout.same(FILE, "services", names().chain([STEWARD.name, BOOTSTRAP]), words(services));
    for instance in &instances {
        let service = &services[instance.name];
        if !service.is_null() {
            container(checkout, *instance, service);
        }
    }

    let steward = &services[STEWARD.name];
    let groups: Vec<u32> = map.workloads().map(|workload| workload.user).collect();
    checkout.same(FILE, "steward's groups", groups, words(&steward["group_add"]));
    let volumes = words(&steward["volumes"]).into_iter().filter(|volume| volume.starts_with("state-"));
    let given = names().chain([STEWARD.name]).map(|name| format!("state-{name}:/state/{name}"));
    checkout.same(FILE, "steward's volumes", given, volumes);
    let volumes = words(&compose["volumes"]).into_iter().filter(|volume| volume.starts_with("state-"));
    let wanted = names().chain([STEWARD.name]).map(|name| format!("state-{name}"));
    checkout.same(FILE, "volumes", wanted, volumes);

    let networks = &compose["networks"];
    checkout.same(FILE, "networks", Network::ALL.map(Network::as_str), words(networks));
    let internal = Network::ALL.into_iter().filter(|network| network.is_internal()).map(Network::as_str);
    let found = words(networks).into_iter().filter(|name| networks[name]["internal"] == json!(true));
    checkout.same(FILE, "internal networks", internal, found);
}

fn container(checkout: &mut Checkout, instance: Instance, service: &Value) {
    let (name, workload) = (instance.name, instance.workload);
    let mut same = |what: &str, map: Vec<String>, found: Vec<String>| {
        checkout.same(FILE, format_args!("{name}, {what}"), map, found);
    };
    same("container_name", vec![format!("${{RAMPART_PREFIX:-}}{name}")], one(&service["container_name"]));

    let networks = [words(&service["networks"]), one(&service["network_mode"])].concat();
    same("networks", workload.networks.iter().map(|network| network.as_str().to_owned()).collect(), networks);

    let published = instance.third_party.map_or(&[][..], |it| it.published);
    let is_for_people = workload.networks.contains(&Network::People);
    let address = if is_for_people { "127.0.0.1" } else { "${RAMPART_BIND:-0.0.0.0}" };
    let ports = published.iter().map(|port| format!("{address}:${{RAMPART_PORT_{port}:-{port}}}:{port}"));
    same("published ports", ports.collect(), words(&service["ports"]));

    let states = words(&service["volumes"]).into_iter().filter(|volume| volume.starts_with("state-"));
    same("volume of its own", vec![format!("state-{name}:/state:ro")], states.collect());

    let user = workload.user.to_string();
    let mut users = words(&service["group_add"]);
    for mount in words(&service["tmpfs"]) {
        let options = mount.split([':', ',']);
        let ids = options.filter_map(|option| option.strip_prefix("uid=").or_else(|| option.strip_prefix("gid=")));
        users.extend(ids.map(ToOwned::to_owned));
    }
    users.push(user.clone());
    same("users of its memory", vec![user], users);
}

fn one(value: &Value) -> Vec<String> {
    value.as_str().map(ToOwned::to_owned).into_iter().collect()
}
