//! The configuration file of every process: addresses, identities and secrets of this machine, nothing else.
//! What is not said here is the service's own default.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use topology::{SERVICES, Service, name};

use super::{Arguments, layout::Layout, ports::Ports};

/// The addresses of all listeners.
pub(super) struct Addresses {
    pub(super) front: SocketAddr,
    pub(super) database: SocketAddr,
    /// Of every instance.
    pub(super) listeners: BTreeMap<&'static str, Listeners>,
}

/// The two listeners of a service. The balancer's `main` is unused: it has the front door.
#[derive(Clone, Copy, serde::Serialize)]
pub(super) struct Listeners {
    main: SocketAddr,
    admin: SocketAddr,
}

/// Files that the options name, made absolute.
pub(super) struct Options {
    pub(super) models: PathBuf,
    pub(super) onnxruntime: PathBuf,
    pub(super) onnxruntime_sha256: String,
}

/// Writes `config/<instance>.toml` for each instance of a service.
pub(super) fn write_all(layout: &Layout, addresses: &Addresses, options: &Options) -> anyhow::Result<()> {
    for (service, instance) in instances() {
        let listeners = addresses.listeners.get(instance);
        let listeners = listeners.with_context(|| format!("no address was chosen for {instance}"))?;
        let mut config = BTreeMap::from([
            ("admin", json!({ "address": listeners.admin })),
            ("identity", json!({ "directory": layout.identity(instance) })),
        ]);
        if service.workload.name == name::BALANCER {
            config.insert("front", json!({ "address": addresses.front }));
            config.insert("pools", addresses.pools(service));
        } else {
            config.insert("listen", json!({ "address": listeners.main }));
            if service.upstreams.contains(&name::GATEWAY) {
                config.insert("gateway", json!({ "addresses": addresses.all(name::GATEWAY) }));
            }
        }
        if let Some(place) = service.database {
            config.insert("database", database(service.workload.name, place.role, layout, addresses));
        }
        config.extend(own_sections(service.workload.name, instance, layout, options));
        let path = layout.config(instance);
        let toml = toml::to_string(&config).with_context(|| format!("cannot write {}", path.display()))?;
        secrets::replace_file(&path, toml.as_bytes(), 0o600, None)?;
    }
    Ok(())
}

/// The services of the map, with each instance that runs here.
pub(super) fn instances() -> impl Iterator<Item = (&'static Service, &'static str)> {
    SERVICES.iter().flat_map(|service| service.workload.dev_instances.iter().map(move |instance| (service, *instance)))
}

fn own_sections(service: &str, instance: &str, layout: &Layout, options: &Options) -> Vec<(&'static str, Value)> {
    let secret = |file: &str| layout.access.secret(service, file);
    match service {
        name::GATEWAY => vec![
            (
                "tokens",
                json!({
                    "access_signing_key_file": secret("access-signing-key.pem"),
                    "passport_signing_key_file": secret("passport-signing-key.pem"),
                }),
            ),
            ("bootstrap", json!({ "token_file": secret("bootstrap-token") })),
        ],
        name::SERVING => vec![
            ("models", json!({ "directory": options.models, "desired_state_file": layout.desired_state(instance) })),
            ("onnxruntime", json!({ "library": options.onnxruntime, "sha256": options.onnxruntime_sha256 })),
        ],
        name::BACKUP => vec![
            (
                "backup",
                json!({
                    "directory": layout.root().join("backups"),
                    "models": options.models,
                    "age_recipient_file": secret("age-recipient"),
                    "age_identity_file": secret("age-identity"),
                    "signing_key_file": secret("manifest-signing-key.pem"),
                }),
            ),
            // A machine of a developer makes sets when it is asked to.
            ("schedule", json!({ "create": "off", "verify_older": "off", "verify_created": false })),
        ],
        _ => Vec::new(),
    }
}

fn database(service: &str, role: &str, layout: &Layout, addresses: &Addresses) -> Value {
    let identity = layout.identity(&format!("{service}-1"));
    json!({
        "host": "localhost",
        "port": addresses.database.port(),
        "name": "detektor",
        "user": role,
        "password_file": layout.access.secret(service, "database-password"),
        "ca_file": layout.ca_file(),
        "certificate_file": identity.join("certificate.pem"),
        "key_file": identity.join("key.pem"),
    })
}

// === impl Addresses ===

impl Addresses {
    /// Chooses a port for every listener.
    pub(super) fn choose(ports: &mut Ports, front: u16) -> anyhow::Result<Self> {
        let front = ports.requested(front)?;
        let database = ports.next()?;
        let mut listeners = BTreeMap::new();
        for (_, instance) in instances() {
            listeners.insert(instance, Listeners { main: ports.next()?, admin: ports.next()? });
        }
        Ok(Self { front, database, listeners })
    }

    /// Instances of a service with their addresses.
    fn replicas(&self, service: &str) -> Vec<Value> {
        instances()
            .filter(|(of, _)| of.workload.name == service)
            .filter_map(|(_, instance)| {
                let listeners = self.listeners.get(instance)?;
                Some(json!({ "name": instance, "address": listeners.main }))
            })
            .collect()
    }

    /// The pools of the balancer; a third party does not run here.
    fn pools(&self, balancer: &Service) -> Value {
        let services = balancer.upstreams.iter().filter(|name| topology::service(name).is_some());
        services.map(|name| ((*name).to_owned(), json!({ "replicas": self.replicas(name) }))).collect()
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
