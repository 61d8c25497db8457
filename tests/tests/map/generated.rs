//! Files that are only data: written from the map, whole.

use std::collections::BTreeMap;

use topology::{Map, Speaks, Workload};

use crate::checkout::Checkout;

const SOCKETS: &str = "tests/data/sockets.txt";
const TARGETS: &str = "monitoring/prometheus/targets";
const SOCKETS_HEAD: &str = "\
# What listens in the containers of a running platform; a test compares. (Docker's own resolver at 127.0.0.11 is left out.)
# speaks: tls, proxy-tls (after a PROXY header), postgres-tls (after PostgreSQL's question), or plain, on loopback only.
#
# container                protocol address  port  speaks        what it is
";

/// Every generated file, with its text.
pub(crate) fn files(map: &Map) -> BTreeMap<String, String> {
    let targets = jobs(map).into_iter().map(|(job, targets)| {
        let text = format!("# Generated from crates/topology.\n- targets: [{}]\n", targets.join(", "));
        (format!("{TARGETS}/{job}.yml"), text)
    });
    targets.chain([(SOCKETS.to_owned(), sockets(map))]).collect()
}

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    for (file, text) in files(map) {
        if checkout.text(&file) != text {
            checkout.fault(&file, "is not what the map says: RAMPART_UPDATE=1 cargo test -p end-to-end --test map");
        }
    }
}

/// Prometheus' jobs and what each asks.
pub(crate) fn jobs(map: &Map) -> BTreeMap<&'static str, Vec<String>> {
    let mut jobs: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for Workload { instances, scrapes, .. } in map.workloads() {
        for (job, port) in *scrapes {
            jobs.entry(*job).or_default().extend(instances.iter().map(|instance| format!("{instance}:{port}")));
        }
    }
    jobs
}

fn sockets(map: &Map) -> String {
    let mut lines = Vec::new();
    for Workload { instances, sockets, .. } in map.workloads() {
        for (instance, socket) in instances.iter().flat_map(|name| sockets.iter().map(move |socket| (name, socket))) {
            let is_hidden = socket.speaks == Speaks::Plain;
            let address = if is_hidden { "loopback" } else { "*" };
            let (port, speaks, about) = (socket.port, socket.speaks.as_str(), socket.about);
            let line = format!("{instance:<26} tcp      {address:<8} {port}  {speaks:<13} {about}\n");
            lines.push(((*instance, is_hidden, port), line));
        }
    }
    lines.sort();
    SOCKETS_HEAD.to_owned() + &lines.into_iter().map(|(_, line)| line).collect::<String>()
}
