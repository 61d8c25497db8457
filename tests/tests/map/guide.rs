//! Follows docs/guides/add-a-service.md: a sixth service on the map makes every file stale that the guide names and no other,
//! and what the guide says mends each of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use end_to_end::checkout::repository;
use topology::{
    BACKUP, BALANCER, CALLERS, Database, GATEWAY, Map, Network, SERVING, SLA, Secret, SecretKind, Service, Socket,
    Speaks, THIRD_PARTIES, Workload, name,
};

use Edit::{Behind, Generated, New};

use crate::{
    checkout::{Checkout, between},
    generated, stale, update_if_asked,
};

const GUIDE: &str = "docs/guides/add-a-service.md";
/// The heading of the files that no comparison names.
const NOT_COMPARED: &str = "\n## 7. What no test names\n";
/// The source of the map, which is compiled instead of compared.
const SOURCE: &str = "crates/topology/src/";
const EDGES: &[&str] = &[name::BALANCER, name::EDGE];

/// The service that the guide adds.
const FEATURES: Service = Service {
    workload: Workload {
        name: "features",
        user: 10_107,
        instances: &["feature-store"],
        dev_instances: &["features-1"],
        networks: &[Network::Internal],
        sockets: &[
            Socket { port: 8443, speaks: Speaks::Tls, about: "the service" },
            Socket { port: 9464, speaks: Speaks::Tls, about: "health and metrics" },
        ],
        dns_names: &[],
        secrets: &[],
        scrapes: &[("feature-store", 9464)],
    },
    peers: &[("/api/features", EDGES), ("/grpc.health.v1.Health", &[name::BALANCER, name::OPERATOR])],
    upstreams: &[name::GATEWAY],
    database: Some(Database { role: "features", schema: "features", member_of: &[] }),
};

/// The map with it: it is behind the edges, asks for the keys of passports, and has a role in the database.
fn six() -> Map {
    let balancer = Service { upstreams: more(BALANCER.upstreams, FEATURES.workload.name), ..BALANCER };
    let mut peers = GATEWAY.peers.to_vec();
    let keys = peers.iter_mut().find(|(path, _)| path.ends_with("/PassportKeys")).unwrap();
    keys.1 = more(keys.1, FEATURES.workload.name);
    let gateway = Service { peers: peers.leak(), ..GATEWAY };
    let mut third_parties = THIRD_PARTIES.to_vec();
    let postgres = third_parties.iter_mut().find(|it| it.workload.name == name::POSTGRES).unwrap();
    let password = Secret { path: "features/database-password", kind: SecretKind::Random };
    postgres.workload.secrets = more(postgres.workload.secrets, (password, "roles/features"));
    Map {
        services: vec![balancer, gateway, SERVING, SLA, BACKUP, FEATURES].leak(),
        third_parties: third_parties.leak(),
        callers: more(&CALLERS, FEATURES.workload.name),
    }
}

fn more<T: Clone>(list: &'static [T], item: T) -> &'static [T] {
    [list, &[item]].concat().leak()
}

/// What is done to a file.
enum Edit {
    /// Each text is put behind the first place where the other stands.
    Behind(&'static [(&'static str, &'static str)]),
    /// The file is made.
    New(&'static str),
    /// The comparison's own update writes it.
    Generated,
}

#[test]
fn the_guide_names_every_file_that_a_new_service_makes_stale_and_mends_each() {
    let guide = fs::read_to_string(repository().join(GUIDE)).unwrap();
    let (followed, rest) = guide.split_once(NOT_COMPARED).unwrap();
    for file in steps(rest) {
        assert!(repository().join(file).is_file(), "{file} is named and not there");
    }
    let steps = steps(followed);
    let edited: BTreeSet<&str> = EDITS.iter().map(|(file, _)| *file).collect();
    assert_eq!(
        steps.iter().copied().collect::<BTreeSet<_>>(),
        edited,
        "the guide's files and those that are edited here"
    );

    let scratch = tempfile::tempdir().unwrap();
    copy(scratch.path());
    let example = between(&guide, "```rust\n", "```");
    let compared = |file: &str| !file.starts_with(SOURCE);
    assert_eq!(
        faulty(scratch.path()),
        steps.iter().copied().filter(|file| compared(file)).map(PathBuf::from).collect()
    );

    for file in steps {
        let (_, edit) = EDITS.iter().find(|(edited, _)| *edited == file).unwrap();
        follow(scratch.path(), file, edit, example);
        assert!(!faulty(scratch.path()).contains(Path::new(file)), "{file} is edited, and still stale");
    }
    assert_eq!(faulty(scratch.path()), BTreeSet::new());
    assert_eq!(
        compiled(scratch.path()),
        format!("{:?}", six()),
        "the guide's map is the one that the files were compared with"
    );
}

/// The files that a part of the guide names, in its order.
fn steps(guide: &str) -> Vec<&str> {
    guide.lines().filter_map(|line| line.strip_prefix("- `")?.split('`').next()).collect()
}

/// What a comparison with the six services complains of.
fn faulty(scratch: &Path) -> BTreeSet<PathBuf> {
    let mut checkout = Checkout::at(scratch.to_owned());
    stale(&six(), &mut checkout);
    checkout.faults.iter().filter_map(|fault| fault.split(": ").next()).map(PathBuf::from).collect()
}

/// Every file that is compared, and the source of the map.
fn copy(scratch: &Path) {
    update_if_asked();
    let mut checkout = Checkout::at(repository());
    stale(&topology::PLATFORM, &mut checkout);
    assert!(checkout.faults.is_empty(), "{}", checkout.faults.join("\n"));
    let sources = EDITS.iter().map(|(file, _)| (*file).to_owned()).filter(|file| file.starts_with(SOURCE));
    let rest = [format!("{SOURCE}third_parties.rs"), "crates/topology/README.md".to_owned()];
    for file in checkout.read.into_iter().chain(sources).chain(rest) {
        fs::create_dir_all(scratch.join(&file).parent().unwrap()).unwrap();
        fs::copy(repository().join(&file), scratch.join(&file)).unwrap();
    }
}

fn follow(scratch: &Path, file: &str, edit: &Edit, example: &str) {
    let path = scratch.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = match edit {
        New(text) => (*text).to_owned(),
        Generated => generated::files(&six())[file].clone(),
        Behind(places) => {
            let mut text = fs::read_to_string(&path).unwrap();
            for (place, more) in *places {
                let at = text.find(place);
                assert!(at.is_some(), "{file} has no {place:?}");
                let at = at.unwrap() + place.len();
                text.insert_str(at, &more.replace("EXAMPLE", example));
            }
            text
        }
    };
    fs::write(path, text).unwrap();
}

/// The map of the scratch copy, as the compiler sees it.
fn compiled(scratch: &Path) -> String {
    fs::write(scratch.join("main.rs"), "fn main() { print!(\"{:?}\", topology::PLATFORM) }").unwrap();
    let rustc = |arguments: &[&str]| {
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let done =
            Command::new(compiler).args(["--edition", "2024"]).args(arguments).current_dir(scratch).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    rustc(&["--crate-type", "rlib", "--crate-name", "topology", "crates/topology/src/lib.rs"]);
    rustc(&["--extern", "topology=libtopology.rlib", "main.rs"]);
    String::from_utf8(Command::new(scratch.join("main")).output().unwrap().stdout).unwrap()
}

/// What the guide says, done.
const EDITS: &[(&str, Edit)] = &[
    (
        "crates/topology/src/name.rs",
        Behind(&[(
            "pub const BACKUP: &str = \"backup\";\n",
            "/// Features.\npub const FEATURES: &str = \"features\";\n",
        )]),
    ),
    (
        "crates/topology/src/services.rs",
        Behind(&[
            ("SLA, BACKUP", ", FEATURES"),
            ("name::BACKUP, name::MLFLOW", ", name::FEATURES"),
            ("name::GATEWAY, name::SERVING, name::SLA, name::BACKUP", ", name::FEATURES"),
            ("member_of: &[\"pg_read_all_data\"] }),\n};\n", "\nEXAMPLE"),
        ]),
    ),
    (
        "crates/topology/src/secrets.rs",
        Behind(&[(
            "    (random(\"postgres/archive-passphrase\"), \"archive-passphrase\"),\n",
            "    (random(\"features/database-password\"), \"roles/features\"),\n",
        )]),
    ),
    (
        "crates/topology/src/lib.rs",
        Behind(&[
            ("pub use services::{BACKUP, BALANCER, ", "FEATURES, "),
            ("pub const CALLERS: [&str; 8", " + 1"),
            ("    name::PROMETHEUS,\n", "    name::FEATURES,\n"),
        ]),
    ),
    (
        "crates/features/Cargo.toml",
        New("[package]\nname = \"features\"\n[[bin]]\nname = \"rampart-features\"\npath = \"src/main.rs\"\n"),
    ),
    ("crates/features/config/default.toml", New("[database]\nuser = \"features\"\n")),
    (
        "Cargo.toml",
        Behind(&[("backup = { path = \"crates/backup\" }\n", "features = { path = \"crates/features\" }\n")]),
    ),
    (
        "docs/ARCHITECTURE.md",
        Behind(&[(
            "| `crates/backup` | backup sets, and restores that prove them |\n",
            "| `crates/features` | features of the models |\n",
        )]),
    ),
    ("scripts/check-tidy", Behind(&[("\nSERVICES = {", "\"features\", ")])),
    ("deny.toml", Behind(&[("crate = \"sqlx\"\nwrappers = [\n", "  \"features\",\n")])),
    ("security/rbac-policies/rampart.cedarschema", Behind(&[("\nentity Service enum [", "\"features\", ")])),
    ("security/rbac-policies/services.cedar", Behind(&[("    [Service::\"balancer\", ", "Service::\"features\", ")])),
    (
        "crates/policy/tests/it/table.rs",
        Behind(&[(
            "    (\"prometheus\", &[\"read-admin-port\"]),\n",
            "    (\"features\", &[\"read-passport-keys\", \"read-readiness\"]),\n",
        )]),
    ),
    ("crates/gateway/config/default.toml", Behind(&[("\naudiences = [", "\"features\", ")])),
    ("tests/Cargo.toml", Behind(&[("backup = { workspace = true }\n", "features = { workspace = true }\n")])),
    (
        "tests/tests/matrix.rs",
        Behind(&[("backup::declared_routes()),\n", "(\"features\", features::declared_routes()),\n")]),
    ),
    (
        "tests/tests/map/policies.rs",
        Behind(&[(
            "name::BACKUP => backup::declared_routes(),\n",
            "        name::FEATURES => features::declared_routes(),\n",
        )]),
    ),
    (
        "tests/tests/ports.rs",
        Behind(&[(
            "others: &[\"operator-1\"] },\n",
            "        \"features\" => Calls { path: \"/api/features\", route: \"/api/features\", rpc: None, others: &[\"operator-1\"] },\n",
        )]),
    ),
    ("security/rbac-policies/matrix.txt", Behind(&[("service:prometheus", "  service:features")])),
    (
        "crates/balancer/src/routes.rs",
        Behind(&[(
            "row(\"/api/backups\", Pool(name::BACKUP), SafeMethods, api),\n",
            "row(\"/api/features\", Pool(name::FEATURES), SafeMethods, api),\n",
        )]),
    ),
    (
        "nginx/nginx.conf",
        Behind(&[(
            "proxy_pass https://backup.rampart.internal;\n        }\n",
            "
        location ~ ^/api/features(/|$) {
            set $audience features;
            auth_request /.authorize;
            auth_request_set $passport $upstream_http_rampart_passport;
            proxy_pass https://features.rampart.internal;
        }
",
        )]),
    ),
    (
        "nginx/entrypoint",
        Behind(&[
            (": \"${BACKUP:=backup-worker:8443}\"\n", ": \"${FEATURES:=feature-store:8443}\"\n"),
            ("upstream backup.rampart.internal $BACKUP\n", "upstream features.rampart.internal $FEATURES\n"),
        ]),
    ),
    (
        "docker-compose.yml",
        Behind(&[
            ("\"10106\"", ", \"10107\""),
            ("- state-sla-tracker:/state/sla-tracker\n", "      - state-feature-store:/state/feature-store\n"),
            (
                "volumes: [\"state-sla-tracker:/state:ro\"]\n",
                "
  feature-store:
    <<: *service
    image: rampart/features
    build: { context: ., dockerfile: docker/rampart/Dockerfile, target: features }
    container_name: ${RAMPART_PREFIX:-}feature-store
    tmpfs: [/tmp, \"/run:uid=10107,gid=10107,mode=0700\"]
    volumes: [\"state-feature-store:/state:ro\"]
",
            ),
            ("\nvolumes:\n", "  state-feature-store:\n"),
        ]),
    ),
    (
        "docker/rampart/Dockerfile",
        Behind(&[
            ("for name in rampart rampart-balancer", " rampart-features"),
            (
                "CMD [\"rampart-sla\", \"serve\", \"--config\", \"/etc/rampart/sla.toml\"]\n",
                "
FROM runtime AS features
COPY --from=build /out/rampart-features /usr/local/bin/
COPY docker/rampart/config/features.toml /etc/rampart/
USER 10107:10107
CMD [\"rampart-features\", \"serve\", \"--config\", \"/etc/rampart/features.toml\"]
",
            ),
            ("sla-tracker", " feature-store"),
        ]),
    ),
    (
        "docker/rampart/config/features.toml",
        New("[listen]
address = \"0.0.0.0:8443\"
[admin]
address = \"0.0.0.0:9464\"
[vault]
database_role = \"features\"
[gateway]
addresses = [\"gateway-a:8443\", \"gateway-b:8443\"]
"),
    ),
    (
        "docker/rampart/config/balancer.toml",
        Behind(&[(
            "address = \"0.0.0.0:8095\"\n",
            "[pools.features]\nreplicas = [{ name = \"feature-store\", address = \"feature-store:8443\" }]\n",
        )]),
    ),
    ("docker/postgres/make-roles", Behind(&[("for role in \"$admin\"", " features")])),
    (
        "monitoring/prometheus/prometheus.yml",
        Behind(&[(
            "\nscrape_configs:\n",
            "  - job_name: feature-store
    scheme: https
    tls_config: { <<: *peer, server_name: features.rampart.internal }
    file_sd_configs: [{ files: [targets/feature-store.yml] }]
",
        )]),
    ),
    ("monitoring/prometheus/rules/ml-production-alerts.yml", Behind(&[("expr: up{job=~\"", "feature-store|")])),
    ("tests/data/sockets.txt", Generated),
    ("monitoring/prometheus/targets/feature-store.yml", Generated),
];
