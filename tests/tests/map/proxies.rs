//! HAProxy's configurations, and the lists of peers, members and replicas that third parties have.

use topology::{Map, Peers, Socket, Speaks, name};

use crate::checkout::{Checkout, addresses, between, words, workload};

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    let front = [addresses(map, name::BALANCER), vec![format!("{}:8095", name::EDGE)]].concat();
    haproxy(map, checkout, "docker/haproxy/front.cfg", "front", &front);
    haproxy(map, checkout, "docker/haproxy/postgres.cfg", "postgres-proxy", &addresses(map, name::POSTGRES));
    for registry in ["minio", name::MLFLOW] {
        let hidden = workload(map, registry).sockets.iter().filter(|socket| is_hidden(socket));
        let servers: Vec<String> = hidden.map(|socket| format!("127.0.0.1:{}", socket.port)).collect();
        haproxy(map, checkout, &format!("docker/{registry}/haproxy.cfg"), registry, &servers);
    }

    // Peers, by the names in their certificates.
    for (file, owner) in [("docker/haproxy/entrypoint", "front"), ("docker/minio/entrypoint", "minio")] {
        let text = checkout.text(file);
        let found = between(&text, "for name in ", ";").split_whitespace();
        checkout.same(file, "scrapers", callers(map, owner, "/metrics"), found);
    }
    let file = "docker/mlflow/entrypoint";
    let text = checkout.text(file);
    let list = |name: &str| between(&text, &format!("\n{name}=("), ")").split_whitespace();
    checkout.same(file, "writers and readers", callers(map, name::MLFLOW, "/"), list("writers").chain(list("readers")));
    checkout.same(file, "scrapers", callers(map, name::MLFLOW, "/metrics"), list("scrapers"));
    let file = "docker/prometheus/web-peers.yml";
    let peers = checkout.yaml(file);
    let names = callers(map, name::ALERTMANAGER, "/").iter().map(|name| identity::dns_name(name));
    checkout.same(file, "peers", names, words(&peers["tls_server_config"]["client_allowed_sans"]));

    // Members of the cluster.
    let members = workload(map, "etcd").instances;
    let file = "docker/etcd/entrypoint";
    let text = checkout.text(file);
    checkout.same(file, "members", members, between(&text, "${MEMBERS:-", "}").split_whitespace());
    let file = "docker/postgres/patroni.yml";
    let patroni = checkout.yaml(file);
    checkout.same(file, "etcd", addresses(map, "etcd"), words(&patroni["etcd3"]["hosts"]));
}

/// Ports that are bound, and servers behind them.
fn haproxy(map: &Map, checkout: &mut Checkout, file: &str, owner: &str, servers: &[String]) {
    let text = checkout.text(file);
    let words = || text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let bound = words()
        .filter(|words| words.first() == Some(&"bind"))
        .filter_map(|words| words.get(1)?.strip_prefix(':').map(ToOwned::to_owned));
    let open = workload(map, owner).sockets.iter().filter(|socket| !is_hidden(socket));
    checkout.same(file, "ports", open.map(|socket| socket.port), bound);
    let found = words()
        .filter(|words| words.first() == Some(&"server"))
        .filter_map(|words| words.get(2).map(ToString::to_string));
    checkout.same(file, "servers", servers, found);
}

fn is_hidden(socket: &Socket) -> bool {
    socket.speaks == Speaks::Plain
}

fn callers(map: &Map, third_party: &str, path: &str) -> &'static [&'static str] {
    let peers = map.third_parties.iter().find(|it| it.workload.name == third_party).map_or(&[] as Peers, |it| it.peers);
    peers.iter().find(|(prefix, _)| *prefix == path).map_or(&[], |(_, callers)| callers)
}
