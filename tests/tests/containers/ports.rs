//! Proves what listens in the containers, and what strangers get there: the sockets are those of a committed list, each that
//! another container can reach speaks TLS 1.3 only and with a certificate of our CA, and our servers refuse who is not on
//! their lists.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use authority::{Authority, Leaf};
use end_to_end::{
    containers::{Containers, say},
    listed_sockets::{LIST, ListedSocket, listed_sockets},
    sockets::listening,
    tls_probe::{Preamble, client_config, expect_alert, expect_only_tls_1_3, sslscan_finds_only_1_3},
};
use identity::{PeerName, dns_name};
use rustls::AlertDescription;
use topology::{BALANCER, name};

/// A container whose certificate is of our CA, and whose name is on no list of ours.
const NOT_ON_A_LIST: &str = "detektor-postgres";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_is_what_the_committed_list_says() {
    let platform = Containers::from_environment().unwrap();
    let mut found = BTreeSet::new();
    for service in platform.services().await.unwrap() {
        let sockets = listening(&platform.container(&service)).await.unwrap();
        found.extend(sockets.iter().map(|socket| format!("{service} {socket}")));
    }
    let listed: BTreeSet<String> =
        listed_sockets().unwrap().iter().map(|line| format!("{} {}", line.container, line.socket)).collect();
    say(&format!("{} sockets listen", found.len()));
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(unlisted.is_empty() && gone.is_empty(), "not in {LIST}: {unlisted:#?}\nlisted, but not there: {gone:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reachable_port_speaks_tls_1_3_only_with_a_certificate_of_our_ca() {
    let platform = Containers::from_environment().unwrap();
    let strangers = Strangers::make(&platform).await;
    let mut faults = Vec::new();
    let mut count = 0;
    for line in listed_sockets().unwrap() {
        let Some(preamble) = line.speaks else { continue };
        count += 1;
        let outcome = speaks_as_it_should(&platform, &strangers, &line, preamble).await;
        faults.extend(outcome.err().map(|error| format!("{} {}: {error:#}", line.container, line.port)));
    }
    for port in published(&platform).await.unwrap() {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let outcome = sslscan_finds_only_1_3(address, Preamble::None);
        faults.extend(outcome.err().map(|error| format!("published {port}: {error:#}")));
        count += 1;
    }
    say(&format!("{count} ports speak TLS 1.3 only, save {} faults", faults.len()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_refuse_who_is_not_on_their_lists() {
    let platform = Containers::from_environment().unwrap();
    let strangers = Strangers::make(&platform).await;
    let tries = [
        ("no certificate", None, AlertDescription::CertificateRequired),
        // The foreign CA has the name of ours and another key, so it is a signature that does not hold.
        ("a certificate of another CA", Some(&strangers.foreign), AlertDescription::DecryptError),
        ("a certificate of ours, not on the list", Some(&strangers.unlisted), AlertDescription::AccessDenied),
    ];
    let mut faults = Vec::new();
    let mut count = 0;
    for service in topology::SERVICES {
        let name = dns_name(service.workload.name);
        // The balancers' other port is the front door, which is for clients.
        let ports = service.workload.sockets.iter().map(|socket| socket.port).filter(|port| *port != BALANCER.port());
        for (container, port) in ports.flat_map(|port| service.workload.instances.iter().map(move |it| (*it, port))) {
            let address = address(&platform, container, port).await.unwrap();
            for (who, identity, alert) in &tries {
                let client = client_config(&platform.front.ca_file, identity.map(PathBuf::as_path)).unwrap();
                let outcome = expect_alert(address, &name, "/", client, *alert).await;
                faults.extend(outcome.err().map(|error| format!("{container} {port}, {who}: {error:#}")));
                count += 1;
            }
        }
    }
    say(&format!("{count} strangers turned away, save {}", faults.len()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn speaks_as_it_should(
    platform: &Containers,
    strangers: &Strangers,
    line: &ListedSocket,
    preamble: Preamble,
) -> anyhow::Result<()> {
    let address = address(platform, &line.container, line.port).await?;
    let (ours, foreign) = (&platform.front.ca_file, &strangers.foreign_ca);
    expect_only_tls_1_3(address, preamble, &names(&line.container), ours, foreign).await?;
    // It cannot say a PROXY header.
    if preamble != Preamble::Proxy {
        sslscan_finds_only_1_3(address, preamble)?;
    }
    Ok(())
}

/// Identities that no server of ours may accept.
struct Strangers {
    foreign: PathBuf,
    foreign_ca: PathBuf,
    unlisted: PathBuf,
    _directory: tempfile::TempDir,
}

// === impl Strangers ===

impl Strangers {
    async fn make(platform: &Containers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (foreign, unlisted) = (directory.path().join("foreign"), directory.path().join("unlisted"));
        let now = SystemTime::now().into();
        let name = PeerName { service: "balancer".into(), instance: "balancer-a".into() };
        let authority = Authority::generate(now).unwrap();
        let leaf = Leaf::new(name, now, Duration::from_secs(3600).try_into().unwrap());
        authority.issue(&leaf, &foreign).unwrap();
        let foreign_ca = directory.path().join("foreign-ca.pem");
        fs::write(&foreign_ca, authority.pem()).unwrap();
        fs::create_dir(&unlisted).unwrap();
        for file in ["certificate.pem", "key.pem"] {
            let text = platform.container(NOT_ON_A_LIST).run(&["cat", &format!("/identity/{file}")]).await.unwrap();
            fs::write(unlisted.join(file), text).unwrap();
        }
        Self { foreign, foreign_ca, unlisted, _directory: directory }
    }
}

/// By which a container may be known: its own name, and its service's.
fn names(container: &str) -> Vec<String> {
    let service = topology::SERVICES.iter().find(|service| service.workload.instances.contains(&container));
    let of_service = match container {
        // Behind the front is a balancer, whose certificate it is; the second edge has the name, too.
        "front" | "edge" => Some(name::BALANCER),
        _ => service.map(|service| service.workload.name),
    };
    [container.to_owned()].into_iter().chain(of_service.map(dns_name)).collect()
}

async fn address(platform: &Containers, container: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let address = platform.container(container).address().await?;
    Ok(SocketAddr::new(address.parse()?, port))
}

/// The host's ports that lead to a container of the project.
async fn published(platform: &Containers) -> anyhow::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for service in platform.services().await? {
        let inspected = platform.container(&service).inspect().await?;
        let bound = inspected.pointer("/HostConfig/PortBindings").and_then(serde_json::Value::as_object);
        for bindings in bound.into_iter().flat_map(serde_json::Map::values) {
            let ports_of = bindings.as_array().into_iter().flatten();
            let host_ports = ports_of.filter_map(|binding| binding.get("HostPort")?.as_str()?.parse().ok());
            ports.extend(host_ports.collect::<Vec<u16>>());
        }
    }
    ensure!(!ports.is_empty(), "no port is published");
    Ok(ports)
}
