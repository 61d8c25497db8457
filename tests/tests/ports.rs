//! Proves what every port of a platform answers to foreign clients: nothing but TLS 1.3, and on the inner ports no handshake
//! without a certificate of the platform's CA and a name on the peer list.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use authority::{Authority, Leaf};
use end_to_end::{
    counters::Counters,
    platform::{Platform, service_of},
    request::{HttpResponse, Protocol, Server, Template},
    tls_probe::{self, Preamble, client_config, root_store, sslscan_finds_only_1_3},
};
use http::{Method, StatusCode};
use identity::PeerName;
use rustls::{AlertDescription, ClientConfig, NamedGroup, crypto::aws_lc_rs};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use topology::name;

const PERMISSION_DENIED: i32 = 7;

/// Warnings that the tests of this file provoke.
const EXPECTED_WARNINGS: &[&str] = &["peer called what its list does not open"];

/// A listener that wants a client certificate.
struct Inner {
    instance: String,
    service: String,
    address: SocketAddr,
    is_admin: bool,
}

/// Calls on a service's own listener: by its peer, and by a peer that is on the list for another path.
struct Calls {
    path: &'static str,
    route: &'static str,
    rpc: Option<&'static str>,
    /// On the list, but not for these.
    others: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_port_speaks_tls_1_3_only_and_inner_ports_only_with_listed_peers() {
    let platform = Platform::start(&[]).unwrap();
    let inner = inner_listeners(&platform);
    assert_eq!(inner.len(), 13, "every service's listener and every admin listener is looked at");

    let mut faults = Vec::new();
    let front = platform.front.address;
    let mut ports: Vec<(String, SocketAddr)> = inner.iter().map(|it| (it.service.clone(), it.address)).collect();
    ports.push(("balancer".to_owned(), front));
    for (service, address) in ports {
        note(&mut faults, address, only_tls_1_3(address, Preamble::None));
        note(&mut faults, address, negotiates_hybrid_group(address, &service, &platform.state().ca_file).await);
    }
    let database = platform.state().database;
    note(&mut faults, database, only_tls_1_3(database, Preamble::Postgres));
    note(&mut faults, database, refuses_plain_postgres(database).await);

    let foreign = ForeignIdentity::make(&platform);
    for listener in &inner {
        let place = format!("{} {}", listener.instance, if listener.is_admin { "admin" } else { "service" });
        note(&mut faults, &place, refuses_unlisted_clients(&platform, listener, &foreign).await);
        if !listener.is_admin {
            note(&mut faults, &place, refuses_peers_on_other_paths(&platform, listener).await);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    platform.stop(EXPECTED_WARNINGS).unwrap();
}

fn note(faults: &mut Vec<String>, place: impl std::fmt::Display, outcome: anyhow::Result<()>) {
    faults.extend(outcome.err().map(|error| format!("{place}: {error:#}")));
}

fn inner_listeners(platform: &Platform) -> Vec<Inner> {
    let mut inner = Vec::new();
    for (instance, listeners) in &platform.state().listeners {
        let service = service_of(instance).to_owned();
        let mut add = |address, is_admin| {
            inner.push(Inner { instance: instance.clone(), service: service.clone(), address, is_admin });
        };
        add(listeners.admin, true);
        if service != "balancer" {
            add(listeners.main, false);
        }
    }
    inner
}

/// An identity of another CA, which no server of the platform may accept.
struct ForeignIdentity {
    folder: PathBuf,
    _directory: tempfile::TempDir,
}

// === impl ForeignIdentity ===

impl ForeignIdentity {
    fn make(platform: &Platform) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("foreign");
        let now = SystemTime::now().into();
        let name = PeerName { service: "balancer".into(), instance: "balancer-1".into() };
        let leaf = Leaf::new(name, now, Duration::from_secs(3600).try_into().unwrap());
        Authority::generate(now).unwrap().issue(&leaf, &folder).unwrap();
        // It trusts the platform, so that only the server can refuse.
        std::fs::copy(&platform.state().ca_file, folder.join("platform-ca.pem")).unwrap();
        Self { folder, _directory: directory }
    }
}

// === handshakes and paths ===

/// A client that is not on the list reads an alert, is counted as refused and reaches no route; one that is on it reaches it.
async fn refuses_unlisted_clients(
    platform: &Platform,
    listener: &Inner,
    foreign: &ForeignIdentity,
) -> anyhow::Result<()> {
    let identities = &platform.state().identities;
    let mut tries = vec![
        (None, AlertDescription::CertificateRequired),
        // The foreign CA has the same name and another key, so the signature does not verify.
        (Some(foreign.folder.clone()), AlertDescription::DecryptError),
        (Some(identities.join("postgres-1")), AlertDescription::AccessDenied),
    ];
    if listener.is_admin {
        // A peer of the service is not on the list of the admin port; each is on its own, to ask whether it is ready.
        let peer = if listener.service == name::BACKUP { "sla-1" } else { "backup-1" };
        tries.push((Some(identities.join(peer)), AlertDescription::AccessDenied));
    }
    // Reading the counters of an admin port is a request that it counts.
    let question = u64::from(listener.is_admin);
    let before = Counted::of(platform, listener).await?;
    for (identity, alert) in &tries {
        expect_alert(platform, listener, identity.as_deref(), *alert).await?;
    }
    let after = Counted::of(platform, listener).await?;
    let refused = after.refused - before.refused;
    ensure!(
        refused == tries.len() as u64,
        "{} foreign clients, and {refused} handshakes counted as refused",
        tries.len()
    );
    ensure!(
        after.handled == before.handled + question,
        "a refused client's request was handled: {before:?}, {after:?}"
    );

    // The control: the same request of a listed peer is handled and counted.
    let (peer, path) =
        if listener.is_admin { ("operator-1", "/live") } else { ("balancer-1", calls(&listener.service)?.path) };
    let answer = call_as(platform, listener, peer, &Template::json(Method::GET, path, None, "")?).await?;
    ensure!(answer.status != StatusCode::FORBIDDEN, "{peer} is on the list and was refused");
    let last = Counted::of(platform, listener).await?;
    ensure!(last.handled == after.handled + question + 1, "a handled request was not counted: {after:?}, {last:?}");
    ensure!(last.refused == after.refused, "a listed peer's handshake was counted as refused");
    Ok(())
}

/// Counters of an instance about one of its listeners.
#[derive(Debug)]
struct Counted {
    /// Handshakes.
    refused: u64,
    /// Requests of the path that the foreign clients call; on an admin port, all that its guard decided.
    handled: u64,
}

/// A listed peer on a path of another peer is refused, and the request never handled.
async fn refuses_peers_on_other_paths(platform: &Platform, listener: &Inner) -> anyhow::Result<()> {
    let calls = calls(&listener.service)?;
    let before = Counted::of(platform, listener).await?;
    for peer in calls.others {
        let answer = call_as(platform, listener, peer, &Template::json(Method::GET, calls.path, None, "")?).await?;
        ensure!(answer.status == StatusCode::FORBIDDEN, "{peer} on {}: {}", calls.path, answer.status);
        if let Some(rpc) = calls.rpc {
            let answer = call_as(platform, listener, peer, &Template::grpc(rpc, None, &())?).await?;
            ensure!(answer.grpc_status() == Some(PERMISSION_DENIED), "{peer} on {rpc}: {:?}", answer.grpc_status());
        }
    }
    let after = Counted::of(platform, listener).await?;
    ensure!(after.handled == before.handled, "it was handled: {before:?}, {after:?}");
    Ok(())
}

fn calls(service: &str) -> anyhow::Result<Calls> {
    Ok(match service {
        "serving" => Calls {
            path: "/v2",
            route: "/v2",
            rpc: Some("/inference.GRPCInferenceService/ServerMetadata"),
            others: &["operator-1"],
        },
        "gateway" => Calls {
            path: "/api/admin/users",
            route: "/api/admin/users",
            rpc: Some("/rampart.auth.v1.Authorization/Authorize"),
            others: &["operator-1", "serving-1", "sla-1", "backup-1"],
        },
        "sla" => Calls {
            path: "/api/sla/ml-services/current",
            route: "/api/sla/{service}/current",
            rpc: Some("/rampart.sla.v1.Ledger/ReportMinutes"),
            others: &["operator-1"],
        },
        "backup" => Calls { path: "/api/backups", route: "/api/backups", rpc: None, others: &["operator-1"] },
        _ => bail!("no calls are listed here for the service {service}"),
    })
}

// === impl Counted ===

impl Counted {
    async fn of(platform: &Platform, listener: &Inner) -> anyhow::Result<Self> {
        let counters = Counters::of(platform, &listener.instance).await?;
        let name = if listener.is_admin { "admin" } else { "service" };
        let handled = if listener.is_admin {
            let decisions = |action| counters.sum("ml_authz_decisions_total", &[("action", action)]);
            decisions("read-readiness")? + decisions("read-admin-port")?
        } else {
            let route = calls(&listener.service)?.route;
            counters.sum(&format!("ml_{}_requests_total", listener.service), &[("route", route)])?
        };
        let refused = [("listener", name), ("outcome", "refused")];
        Ok(Self { refused: counters.sum("ml_transport_handshakes_total", &refused)?, handled })
    }
}

async fn call_as(
    platform: &Platform,
    listener: &Inner,
    peer: &str,
    template: &Template,
) -> anyhow::Result<HttpResponse> {
    let mut tls = client_config(&platform.state().ca_file, Some(&platform.state().identities.join(peer)))?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(format!("{}.rampart.internal", listener.service))?;
    let server = Server { address: listener.address, name, tls: Some(Arc::new(tls)), protocol: Protocol::Http2 };
    server.connect().await?.call(template).await
}

async fn expect_alert(
    platform: &Platform,
    listener: &Inner,
    identity: Option<&Path>,
    alert: AlertDescription,
) -> anyhow::Result<()> {
    let path = if listener.is_admin { "/live" } else { calls(&listener.service)?.path };
    let name = format!("{}.rampart.internal", listener.service);
    let client = client_config(&platform.state().ca_file, identity)?;
    let outcome = tls_probe::expect_alert(listener.address, &name, path, client, alert).await;
    outcome.with_context(|| format!("{identity:?}"))
}

// === TLS versions ===

fn only_tls_1_3(address: SocketAddr, preamble: Preamble) -> anyhow::Result<()> {
    let openssl = if preamble == Preamble::Postgres { &["-starttls", "postgres"][..] } else { &[] };
    let speaks = |version: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-brief", "-connect", &address.to_string(), version]).args(openssl);
        let output = command.stdin(Stdio::null()).output().expect("openssl is installed");
        let printed = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&printed).contains("Protocol version: TLSv1")
    };
    ensure!(speaks("-tls1_3"), "it does not speak TLS 1.3");
    ensure!(!speaks("-tls1_2"), "it speaks TLS 1.2");

    sslscan_finds_only_1_3(address, preamble)
}

/// A client that offers nothing but the hybrid group gets through.
async fn negotiates_hybrid_group(address: SocketAddr, service: &str, ca_file: &Path) -> anyhow::Result<()> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
    let tls = builder.with_root_certificates(root_store(ca_file)?).with_no_client_auth();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(format!("{service}.rampart.internal"))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let group = stream.get_ref().1.negotiated_key_exchange_group().context("no group")?.name();
    ensure!(group == NamedGroup::X25519MLKEM768, "negotiated {group:?}");
    Ok(())
}

/// A start-up message without TLS before it: the database answers with an error that says so, and asks for no password.
async fn refuses_plain_postgres(address: SocketAddr) -> anyhow::Result<()> {
    const VERSION_3: i32 = 196_608;
    let parameters = b"user\0gateway\0database\0detektor\0\0";
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_i32(i32::try_from(parameters.len())? + 8).await?;
    tcp.write_i32(VERSION_3).await?;
    tcp.write_all(parameters).await?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await?;
    let error = String::from_utf8_lossy(&answer);
    ensure!(
        error.starts_with('E') && error.contains("no encryption"),
        "a plain connection was answered with {error:?}"
    );
    Ok(())
}
