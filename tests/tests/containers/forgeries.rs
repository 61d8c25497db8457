//! Proves that no service is taken for another by a certificate: Vault signs for a container its own names and nothing else, and every
//! third party that decides by a certificate compares whole names, so that one of our CA is refused in which an allowed
//! name is only a part, or in the wrong field.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is missing is null, and in a test that may fail by panicking"
)]

use std::{
    fs::{self, Permissions},
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use authority::{Authority, Leaf};
use end_to_end::{
    containers::{Containers, say},
    docker::{as_root, docker},
    poll::until,
    request::{HttpResponse, Protocol, Server, Template},
    tls_probe::client_config,
};
use http::{Method, StatusCode, header};
use identity::PeerName;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};

/// After the first prediction, for which one of them is enough.
const REGISTERED_WITHIN: Duration = Duration::from_secs(120);
/// Who forges.
const FORGER: &str = "sla-tracker";
/// Whose names it would like to have.
const PUBLISHER: &str = "spiffe://rampart.internal/svc/publisher/example-models";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vault_signs_the_names_of_a_container_and_nothing_else() {
    let platform = Containers::from_environment().unwrap();
    let mut faults = Vec::new();
    let mut count = 0;
    // The balancer's has an address, too.
    for container in [FORGER, "balancer-a"] {
        let session = VaultSession::open(&platform, container).await.unwrap();
        let signed = session.sign(&format!("pki/sign/{container}"), &session.own_names()).await.unwrap();
        assert_eq!(signed.status, StatusCode::OK, "the control, {container}: {}", told(&signed));
        // The request itself says other names, and Vault reads none of them.
        let body: Value = serde_json::from_slice(&signed.body).unwrap();
        let pem = body.pointer("/data/certificate").and_then(Value::as_str).unwrap();
        assert_eq!(identity_of(pem), session.login["name"], "{container}");

        for (what, path, names) in session.forgeries() {
            let answer = session.sign(&path, &names).await.unwrap();
            if !answer.status.is_client_error() {
                faults.push(format!("{container}, {what}: {} {names}", answer.status));
            }
            count += 1;
        }
    }
    say(&format!("{count} forged requests to Vault, save {} refused", faults.len()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Through the published port a call comes from another network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_to_vault_counts_in_the_platforms_own_network_alone() {
    let platform = Containers::from_environment().unwrap();
    let inside = VaultSession::open(&platform, FORGER).await.unwrap();
    let port: u16 = std::env::var("RAMPART_PORT_8200").unwrap().parse().unwrap();
    let mut outside = inside.clone();
    outside.server.address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(inside.log_in().await.unwrap().status, StatusCode::OK, "the control");
    let refused = outside.log_in().await.unwrap();
    assert!(refused.status.is_client_error(), "a secret id: {}", told(&refused));

    let path = format!("pki/sign/{FORGER}");
    assert_eq!(inside.sign(&path, &inside.own_names()).await.unwrap().status, StatusCode::OK, "the control");
    let refused = outside.sign(&path, &inside.own_names()).await.unwrap();
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "a token: {}", told(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_third_party_takes_a_part_of_a_name_for_the_name() {
    let platform = Containers::from_environment().unwrap();
    let forger = Forger::make(&platform).await.unwrap();
    let mut faults = Vec::new();
    let mut count = 0;
    for guarded in GUARDED {
        let address = address(&platform, guarded.container, guarded.port).await.unwrap();
        // etcd wants the address of who calls in the certificate, too.
        let caller = std::net::TcpStream::connect(address).unwrap().local_addr().unwrap().ip().to_string();
        let right = forger.certificate(guarded.allowed, &[guarded.allowed, &caller]).unwrap();
        let answer = guarded.ask(&platform, address, &right).await;
        let answer = answer.with_context(|| format!("the control, {guarded:?}")).unwrap();
        assert!(!guarded.is_refused(Some(&answer)), "the control, {guarded:?}: {}", told(&answer));
        for (common_name, dns_name) in guarded.forgeries() {
            let certificate = forger.certificate(&common_name, &[&dns_name, &caller]).unwrap();
            // Those that look at DNS names refuse in the handshake.
            let answer = guarded.ask(&platform, address, &certificate).await.ok();
            if !guarded.is_refused(answer.as_ref()) {
                faults.push(format!("{guarded:?} took {common_name:?}, {dns_name:?}"));
            }
            count += 1;
        }
    }
    say(&format!("{count} forged certificates, save {} refused", faults.len()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_wants_a_certificate_made_out_to_the_role() {
    let platform = Containers::from_environment().unwrap();
    let forger = Forger::make(&platform).await.unwrap();
    let node = "detektor-postgres-master";
    let replicator = platform.container(node).run(&["cat", "/secrets/replication-password"]).await.unwrap();
    let mlflow = platform.container("mlflow").run(&["cat", "/secrets/database-password"]).await.unwrap();
    // Their passwords are not rotated, and here they are right: what decides is the certificate.
    let logins = [
        ("replicator", replicator, "replication=true", "IDENTIFY_SYSTEM"),
        ("mlflow", mlflow, "dbname=mlflow", "SELECT 1"),
    ];
    for (role, password, database, command) in logins {
        let passfile = forger.folder().join("pgpass");
        fs::write(&passfile, format!("*:*:*:{role}:{password}\n")).unwrap();
        fs::set_permissions(&passfile, Permissions::from_mode(0o600)).unwrap();
        let right = forger.certificate(role, &[role]).unwrap();
        let login = format!("host={node} user={role} {database}");
        forger.psql(&platform, &right, &login, command).await.unwrap();
        for forged in imitations(role).iter().map(String::as_str).chain(["sla"]) {
            let certificate = forger.certificate(forged, &[role]).unwrap();
            let answer = forger.psql(&platform, &certificate, &login, command).await;
            let is_refused = answer.as_ref().is_err_and(|error| error.to_string().contains("authentication failed"));
            assert!(is_refused, "{role} with a certificate of {forged:?}: {answer:?}");
        }
    }
}

/// Of a node it wants a certificate of our CA and an address of one of the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patroni_takes_changes_from_members_alone() {
    let platform = Containers::from_environment().unwrap();
    let forger = Forger::make(&platform).await.unwrap();
    let node = "detektor-postgres-master";
    let address = address(&platform, node, 8008).await.unwrap();
    let certificate = forger.certificate("replicator", &[node]).unwrap();
    let change = Template::json(Method::PATCH, "/config", None, "{}").unwrap();
    for identity in [None, Some(certificate.as_path())] {
        let answer = call(&platform, address, node, identity, &change).await.unwrap();
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{identity:?}: {}", told(&answer));
    }
}

/// It has registered the example models, and a certificate of its own for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publisher_may_write_until_its_work_is_done() {
    let platform = Containers::from_environment().unwrap();
    until("the example models are registered", REGISTERED_WITHIN, async || {
        let publisher = platform.container("example-models").inspect().await?;
        let state = publisher.pointer("/State").context("no state")?;
        ensure!(state["Status"] == "exited" && state["ExitCode"] == 0, "{state}");
        Ok(())
    })
    .await
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let volume = format!("{}_state-example-models:/state:ro", platform.project);
    for file in ["certificate.pem", "key.pem"] {
        let kept = format!("/state/identity/{file}");
        let read = ["run", "--rm", "--network", "none", "--volume", &volume, "debian:trixie-slim", "cat", &kept];
        fs::write(directory.path().join(file), docker(&read).await.unwrap()).unwrap();
    }
    let certificate = fs::read(directory.path().join("certificate.pem")).unwrap();
    let ends = SystemTime::from(identity::certificate_pem_not_after(&certificate).unwrap());
    assert!(ends < SystemTime::now() + Duration::from_secs(3600), "{ends:?}");

    let address = address(&platform, "mlflow", 5000).await.unwrap();
    for ((method, path, body), wanted) in [(SEARCH, StatusCode::OK), (REGISTER, StatusCode::FORBIDDEN)] {
        let template = Template::json(method, path, None, body).unwrap();
        let answer = call(&platform, address, "mlflow", Some(directory.path()), &template).await.unwrap();
        assert_eq!(answer.status, wanted, "{path}: {}", told(&answer));
    }
}

/// A port that lets in some of our certificates.
#[derive(Debug)]
struct Guarded {
    container: &'static str,
    port: u16,
    /// What it lets in: a common name, or a DNS name.
    allowed: &'static str,
    by: Field,
    /// Method, path and body.
    request: (Method, &'static str, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    CommonName,
    DnsName,
}

const REGISTER: (Method, &str, &str) = (Method::POST, "/api/2.0/mlflow/registered-models/create", "{}");
const SEARCH: (Method, &str, &str) = (Method::GET, "/api/2.0/mlflow/registered-models/search", "");
const METRICS: (Method, &str, &str) = (Method::GET, "/metrics", "");

const GUARDED: [Guarded; 11] = [
    Guarded::new("mlflow", 5000, "balancer", Field::CommonName, REGISTER),
    Guarded::new("mlflow", 5000, "publisher", Field::CommonName, SEARCH),
    Guarded::new("mlflow", 5000, "serving", Field::CommonName, SEARCH),
    Guarded::new("mlflow", 9464, "prometheus", Field::CommonName, METRICS),
    Guarded::new("minio", 9464, "prometheus", Field::CommonName, METRICS),
    Guarded::new("front", 9464, "operator", Field::CommonName, METRICS),
    Guarded::new("detektor-postgres", 9464, "prometheus", Field::CommonName, METRICS),
    Guarded::new("alertmanager", 9093, "prometheus.rampart.internal", Field::DnsName, METRICS),
    Guarded::new("postgres-exporter", 9187, "prometheus.rampart.internal", Field::DnsName, METRICS),
    Guarded::new("etcd-1", 2380, "etcd", Field::DnsName, (Method::GET, "/version", "")),
    Guarded::new("etcd-3", 2380, "etcd", Field::DnsName, (Method::GET, "/version", "")),
];

// === impl Guarded ===

impl Guarded {
    const fn new(
        container: &'static str,
        port: u16,
        allowed: &'static str,
        by: Field,
        request: (Method, &'static str, &'static str),
    ) -> Self {
        Self { container, port, allowed, by, request }
    }

    /// Common names and DNS names that are not what it wants, and what it wants in the field that it does not read.
    fn forgeries(&self) -> Vec<(String, String)> {
        let wanted = self.allowed.to_owned();
        let mut imitations = imitations(&wanted);
        let elsewhere = match self.by {
            Field::CommonName => ("sla".to_owned(), wanted),
            Field::DnsName => {
                // A DNS name is the same in capitals.
                imitations.retain(|name| *name != wanted.to_uppercase());
                (wanted, "sla".to_owned())
            }
        };
        imitations.into_iter().map(|name| (name.clone(), name)).chain([elsewhere]).collect()
    }

    async fn ask(&self, platform: &Containers, address: SocketAddr, identity: &Path) -> anyhow::Result<HttpResponse> {
        let (method, path, body) = &self.request;
        let template = Template::json(method.clone(), path, None, *body)?;
        call(platform, address, self.container, Some(identity), &template).await
    }

    fn is_refused(&self, answer: Option<&HttpResponse>) -> bool {
        match self.by {
            Field::CommonName => answer.is_some_and(|answer| answer.status == StatusCode::FORBIDDEN),
            Field::DnsName => answer.is_none(),
        }
    }
}

/// Names that hold this one, or look like it.
fn imitations(name: &str) -> Vec<String> {
    let uri = format!("spiffe://rampart.internal/svc/{name}/");
    let around = ["x{}", "{}x", "{}.rampart.internal.x", "/CN={}", "sla/CN={}", "CN={}"];
    let around = around.iter().map(|pattern| pattern.replace("{}", name));
    around.chain([format!("{uri}{name}"), uri, name.to_uppercase()]).collect()
}

/// The platform's root CA in the hands of a test, which signs what the steward and Vault refuse.
struct Forger {
    authority: Authority,
    directory: tempfile::TempDir,
}

// === impl Forger ===

impl Forger {
    async fn make(platform: &Containers) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let ca = directory.path().join("ca");
        fs::create_dir(&ca)?;
        for file in ["ca.pem", "ca-key.pem"] {
            let kept = platform.certs.join(file);
            fs::write(ca.join(file), as_root("cat", &[kept.to_str().context("a path")?]).await?)?;
        }
        let authority = Authority::open_or_create(&ca, SystemTime::now().into())?;
        fs::remove_dir_all(ca)?;
        Ok(Self { authority, directory })
    }

    fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Of the service `sla` by its SPIFFE name, and with these names besides.
    fn certificate(&self, common_name: &str, names: &[&str]) -> anyhow::Result<PathBuf> {
        let name = PeerName { service: "sla".into(), instance: FORGER.into() };
        let lifetime = Duration::from_secs(3600).try_into()?;
        let mut leaf = Leaf::new(name, SystemTime::now().into(), lifetime).with_names(names);
        common_name.clone_into(&mut leaf.common_name);
        let folder = tempfile::tempdir_in(self.folder())?.keep();
        self.authority.issue(&leaf, &folder)?;
        Ok(folder)
    }

    async fn psql(
        &self,
        platform: &Containers,
        certificate: &Path,
        login: &str,
        command: &str,
    ) -> anyhow::Result<String> {
        let folder = self.folder().display();
        let certificate = certificate.display();
        let login = format!(
            "{login} sslmode=verify-full sslrootcert={certificate}/ca.pem sslcert={certificate}/certificate.pem \
             sslkey={certificate}/key.pem passfile={folder}/pgpass connect_timeout=5"
        );
        let user = rustix::process::geteuid().as_raw().to_string();
        let (volume, network) = (format!("{folder}:{folder}:ro"), format!("{}_internal", platform.project));
        let program = "/usr/lib/postgresql/17/bin/psql";
        let run = ["run", "--rm", "--network", &network, "--user", &user, "--volume", &volume, "--entrypoint", program];
        docker(&[&run[..], &["rampart/haproxy", "--no-psqlrc", &login, "--command", command]].concat()).await
    }
}

/// Vault, with the login of a container.
#[derive(Clone)]
pub(crate) struct VaultSession {
    server: Server,
    login: Value,
    token: String,
}

// === impl VaultSession ===

impl VaultSession {
    /// With the login that the container has now.
    pub(crate) async fn open(platform: &Containers, container: &str) -> anyhow::Result<Self> {
        let tls = Arc::new(client_config(&platform.front.ca_file, None)?);
        let address = address(platform, "vault", 8200).await?;
        let name = ServerName::try_from("vault")?;
        let server = Server { address, name, tls: Some(tls), protocol: Protocol::Http1 };
        let file = platform.container(container).run(&["cat", "/state/secrets/vault-login.json"]).await?;
        let login: Value = serde_json::from_str(&file)?;
        let mut session = Self { server, login, token: String::new() };
        let answer = session.log_in().await?;
        ensure!(answer.status == StatusCode::OK, "{}", told(&answer));
        let body: Value = serde_json::from_slice(&answer.body)?;
        let token = body.pointer("/auth/client_token").and_then(Value::as_str).context("no token")?;
        token.clone_into(&mut session.token);
        Ok(session)
    }

    /// Once more with the same login.
    pub(crate) async fn log_in(&self) -> anyhow::Result<HttpResponse> {
        let secret = json!({ "role_id": self.login["role_id"], "secret_id": self.login["secret_id"] });
        self.post("auth/approle/login", &secret).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<HttpResponse> {
        let mut template = Template::json(Method::POST, &format!("/v1/{path}"), None, body.to_string())?;
        if !self.token.is_empty() {
            template.headers.insert("x-vault-token", self.token.parse()?);
        }
        self.server.connect().await?.call(&template).await
    }

    /// With a key of its own, and a request that says the names of others.
    async fn sign(&self, path: &str, names: &Value) -> anyhow::Result<HttpResponse> {
        let mut params = CertificateParams::new(["publisher.rampart.internal".to_owned(), "10.0.0.1".to_owned()])?;
        params.subject_alt_names.push(SanType::URI(PUBLISHER.try_into()?));
        params.distinguished_name.push(DnType::CommonName, "publisher");
        let mut body = names.clone();
        body["csr"] = params.serialize_request(&KeyPair::generate()?)?.pem()?.into();
        self.post(path, &body).await
    }

    /// As `vault::Login::names` asks for them.
    fn own_names(&self) -> Value {
        let names = self.login["dns_names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let (addresses, hosts): (Vec<&str>, Vec<&str>) = names.partition(|name| name.parse::<IpAddr>().is_ok());
        let mut own = json!({
            "common_name": self.login["common_name"],
            "alt_names": hosts.join(","),
            "uri_sans": self.login["name"],
            "exclude_cn_from_sans": "true",
        });
        if !addresses.is_empty() {
            own["ip_sans"] = addresses.join(",").into();
        }
        own
    }

    /// What it asks for, where, and as which names.
    fn forgeries(&self) -> Vec<(&'static str, String, Value)> {
        let own = self.own_names();
        let container = self.login["role"].as_str().unwrap_or_default();
        let text = |name: &str| own[name].as_str().unwrap_or_default();
        let (uri, hosts) = (text("uri_sans"), text("alt_names"));
        let service_uri = uri.trim_end_matches(container);
        let changed = [
            ("the name of another service", "common_name", "publisher".to_owned()),
            ("a SPIFFE name as common name", "common_name", "spiffe://rampart.internal/svc/publisher/".to_owned()),
            ("a role of PostgreSQL as common name", "common_name", "replicator".to_owned()),
            ("its own host as common name", "common_name", container.to_owned()),
            ("another service's SPIFFE name", "uri_sans", PUBLISHER.to_owned()),
            ("a second SPIFFE name", "uri_sans", format!("{uri},{PUBLISHER}")),
            ("a pattern", "uri_sans", format!("{service_uri}*")),
            ("another instance of its service", "uri_sans", format!("{service_uri}balancer-b")),
            ("a DNS name of another service", "alt_names", "gateway.rampart.internal".to_owned()),
            ("one more DNS name", "alt_names", format!("{hosts},etcd")),
            ("a wildcard", "alt_names", "*.rampart.internal".to_owned()),
            ("an address that is not its own", "ip_sans", "198.18.95.2".to_owned()),
            ("one more address", "ip_sans", "127.0.0.1,198.18.95.2".to_owned()),
            ("a name of another kind", "other_sans", "1.3.6.1.4.1.311.20.2.3;UTF8:publisher".to_owned()),
            ("a serial number in the subject", "serial_number", "publisher".to_owned()),
            ("its common name as a host", "exclude_cn_from_sans", "false".to_owned()),
            ("a longer life", "ttl", "8760h".to_owned()),
        ];
        let with = |parameter: &str, value: String| {
            let mut names = own.clone();
            names[parameter] = value.into();
            names
        };
        let path = format!("pki/sign/{container}");
        let mut forgeries: Vec<(&str, String, Value)> =
            changed.into_iter().map(|(what, parameter, value)| (what, path.clone(), with(parameter, value))).collect();
        let others = ["pki/sign/gateway-a", "pki/sign-verbatim", "pki/root/sign-intermediate", "pki/roles/sla-tracker"];
        let others = others.into_iter().map(ToOwned::to_owned).chain([format!("pki/issue/{container}")]);
        forgeries.extend(others.map(|path| ("another path", path, own.clone())));
        forgeries
    }
}

async fn call(
    platform: &Containers,
    address: SocketAddr,
    name: &str,
    identity: Option<&Path>,
    template: &Template,
) -> anyhow::Result<HttpResponse> {
    let tls = Some(Arc::new(client_config(&platform.front.ca_file, identity)?));
    let mut template = template.clone();
    // MLflow looks at it.
    template.headers.insert(header::HOST, name.parse()?);
    let name = ServerName::try_from(name.to_owned())?;
    Server { address, name, tls, protocol: Protocol::Http1 }.connect().await?.call(&template).await
}

async fn address(platform: &Containers, container: &str, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(platform.container(container).address().await?.parse()?, port))
}

/// The SPIFFE name in a certificate, if it is its only one.
fn identity_of(pem: &str) -> String {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let holds = |text: &str| certificate.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(!holds("publisher"), "a name of the signing request is in the certificate");
    PeerName::from_certificate(&certificate).unwrap().to_string()
}

fn told(answer: &HttpResponse) -> String {
    format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
}
