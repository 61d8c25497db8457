//! The configuration file of every process: addresses, identities and secrets of this machine, nothing else.
//! What is not said here is the service's own default.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Arguments, certificates::IDENTITIES, layout::Layout, ports::Ports};

/// The addresses of all listeners.
pub(super) struct Addresses {
    pub(super) front: SocketAddr,
    pub(super) database: SocketAddr,
    listeners: BTreeMap<&'static str, Listeners>,
}

/// The two listeners of a service. The balancer's `main` is unused: it has the front door.
#[derive(Clone, Copy, serde::Serialize)]
pub(super) struct Listeners {
    main: SocketAddr,
    admin: SocketAddr,
}

/// Files that the options name, made absolute.
pub(super) struct Options {
    models: PathBuf,
    onnxruntime: PathBuf,
    onnxruntime_sha256: String,
}

/// Whether the identity belongs to a service of the platform.
pub(super) fn is_service(service: &str) -> bool {
    !matches!(service, "operator" | "postgres")
}

/// Writes `config/<instance>.toml` for each instance of a service.
pub(super) fn write_all(layout: &Layout, addresses: &Addresses, options: &Options) -> anyhow::Result<()> {
    for (service, instance) in IDENTITIES.iter().filter(|(service, _)| is_service(service)) {
        let listeners = addresses.of(instance)?;
        let mut config = json!({
            "admin": { "address": listeners.admin },
            "identity": { "directory": layout.identity(instance) },
        });
        if *service != "balancer" {
            set(&mut config, "listen", json!({ "address": listeners.main }));
        }
        for (key, value) in own_sections(service, layout, addresses, options) {
            set(&mut config, key, value);
        }
        let path = layout.config(instance);
        let toml = toml::to_string(&config).with_context(|| format!("cannot write {}", path.display()))?;
        secrets::replace_file(&path, toml.as_bytes(), 0o600, None)?;
    }
    Ok(())
}

fn own_sections(
    service: &str,
    layout: &Layout,
    addresses: &Addresses,
    options: &Options,
) -> Vec<(&'static str, Value)> {
    let authority = json!({ "addresses": addresses.all("gateway") });
    let database = database(service, layout, addresses);
    match service {
        "balancer" => vec![
            ("front", json!({ "address": addresses.front })),
            (
                "pools",
                json!({
                    "serving": { "replicas": addresses.replicas("serving") },
                    "gateway": { "replicas": addresses.replicas("gateway") },
                    "sla": { "replicas": addresses.replicas("sla") },
                    "backup": { "replicas": addresses.replicas("backup") },
                }),
            ),
        ],
        "gateway" => vec![
            ("database", database),
            (
                "tokens",
                json!({
                    "access_signing_key_file": layout.access.secret("gateway", "access-signing-key.pem"),
                    "passport_signing_key_file": layout.access.secret("gateway", "passport-signing-key.pem"),
                }),
            ),
            ("bootstrap", json!({ "token_file": layout.access.secret("gateway", "bootstrap-token") })),
        ],
        "serving" => vec![
            ("gateway", authority),
            ("models", json!({ "directory": options.models })),
            ("onnxruntime", json!({ "library": options.onnxruntime, "sha256": options.onnxruntime_sha256 })),
        ],
        "sla" => vec![("gateway", authority), ("database", database)],
        _ => vec![
            ("gateway", authority),
            ("database", database),
            (
                "backup",
                json!({
                    "directory": layout.root().join("backups"),
                    "models": options.models,
                    "age_recipient_file": layout.access.secret("backup", "age-recipient"),
                    "age_identity_file": layout.access.secret("backup", "age-identity"),
                    "signing_key_file": layout.access.secret("backup", "manifest-signing-key.pem"),
                }),
            ),
        ],
    }
}

fn database(service: &str, layout: &Layout, addresses: &Addresses) -> Value {
    let identity = layout.identity(&format!("{service}-1"));
    json!({
        "host": "localhost",
        "port": addresses.database.port(),
        "name": "detektor",
        "user": service,
        "password_file": layout.access.secret(service, "database-password"),
        "ca_file": layout.ca_file(),
        "certificate_file": identity.join("certificate.pem"),
        "key_file": identity.join("key.pem"),
    })
}

fn set(config: &mut Value, key: &str, value: Value) {
    if let Some(table) = config.as_object_mut() {
        table.insert(key.to_owned(), value);
    }
}

// === impl Addresses ===

impl Addresses {
    /// Chooses a port for every listener.
    pub(super) fn choose(ports: &mut Ports, front: u16) -> anyhow::Result<Self> {
        let front = ports.requested(front)?;
        let database = ports.next()?;
        let mut listeners = BTreeMap::new();
        for (_, instance) in IDENTITIES.iter().filter(|(service, _)| is_service(service)) {
            listeners.insert(*instance, Listeners { main: ports.next()?, admin: ports.next()? });
        }
        Ok(Self { front, database, listeners })
    }

    /// The listeners of every instance, for `state.json`.
    pub(super) fn by_instance(&self) -> &BTreeMap<&'static str, Listeners> {
        &self.listeners
    }

    fn of(&self, instance: &str) -> anyhow::Result<Listeners> {
        self.listeners.get(instance).copied().with_context(|| format!("no address was chosen for {instance}"))
    }

    /// Instances of a service with their addresses.
    fn replicas(&self, service: &str) -> Vec<Value> {
        let instances = IDENTITIES.iter().filter(|(of, _)| *of == service);
        instances
            .filter_map(|(_, instance)| {
                let listeners = self.listeners.get(instance)?;
                Some(json!({ "name": instance, "address": listeners.main }))
            })
            .collect()
    }

    fn all(&self, service: &str) -> Vec<Value> {
        let replicas = self.replicas(service);
        replicas.iter().filter_map(|replica| replica.get("address").cloned()).collect()
    }
}

// === impl Options ===

impl Options {
    /// Checks that the files are there, while the message can still name the option.
    pub(super) fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let models = arguments.models.canonicalize();
        let library = arguments.onnxruntime.canonicalize();
        Ok(Self {
            models: models.with_context(|| format!("--models {}", arguments.models.display()))?,
            onnxruntime: library.with_context(|| format!("--onnxruntime {}", arguments.onnxruntime.display()))?,
            onnxruntime_sha256: arguments.onnxruntime_sha256.clone(),
        })
    }
}
