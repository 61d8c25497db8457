#![doc = include_str!("../README.md")]

pub mod escrow;
mod front_certificate;
mod front_names;
mod names;
mod vault;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use authority::{Authority, Leaf};
use bootstrap::{platform_secrets, say, say_error};
use secrets::{make_folder, replace_file};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use topology::{Instance, PLATFORM, ThirdParty};

use front_certificate::OwnersCertificate;
use front_names::FrontNames;
use names::{dns_names, peer_name};
use vault::Reconciler;

/// How often certificates are checked for renewal.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(600);

/// How long the certificate lasts of who works once.
const ONCE_LIFETIME: time::Duration = time::Duration::hours(1);

/// Options of `rampart steward`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder with a volume for each container, named like it.
    #[arg(long, default_value = "/state")]
    state: PathBuf,
    /// The folder of the root CA: `ca.pem` is public, `ca-key.pem` only for the steward. Vault's unseal share, too.
    #[arg(long, default_value = "/certs")]
    certs: PathBuf,
    /// Written once everything is in its place, for the health check.
    #[arg(long, default_value = "/run/ready")]
    ready: PathBuf,
    /// Vault.
    #[arg(long, default_value = "https://vault:8200")]
    vault: String,
    /// The file in which Vault's container names the digest of its database plugin.
    #[arg(long, default_value = "/vault-about/plugins.sha256")]
    vault_plugin_digest: PathBuf,
    /// The strict profile: people initialize and unseal Vault, and put a token into certs/vault-token.
    #[arg(long, env = "RAMPART_UNSEAL_BY_PEOPLE", default_value_t = false)]
    unseal_by_people: bool,
    /// How long the certificates of services live; they renew them at half of it. Seconds, at least 60.
    #[arg(long, env = "RAMPART_CERTIFICATE_LIFETIME_S", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(60..))]
    certificate_lifetime_s: u32,
    /// How often Vault changes the services' passwords of the database. Seconds, at least 10.
    #[arg(long, env = "RAMPART_DATABASE_ROTATION_S", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(10..))]
    database_rotation_s: u32,
    /// Host names and addresses, between commas, under which clients reach the front door beside localhost and nebula.
    #[arg(long, env = "RAMPART_FRONT_NAMES", default_value = "")]
    front_names: FrontNames,
    /// The folder with the owner's own certificate for the front door.
    #[arg(long, default_value = "/front")]
    front_folder: PathBuf,
    /// The chain in that folder, leaf first, PEM. Empty: the front has no certificate but the one of the platform's CA.
    #[arg(long, env = "RAMPART_FRONT_CERTIFICATE", default_value = "")]
    front_certificate: String,
    /// Its key, PEM, not encrypted.
    #[arg(long, env = "RAMPART_FRONT_KEY", default_value = "")]
    front_key: String,
}

/// Makes missing secrets, writes certificates and secrets of each container, then renews them and operates Vault until SIGTERM.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    identity::install_crypto_providers().context("cannot choose the cryptography")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let own_folder = arguments.state.join(topology::name::STEWARD);
    ensure_secrets(&own_folder)?;
    let containers: Vec<Instance> = PLATFORM.instances().collect();
    let authority =
        Authority::open_or_create(&arguments.certs, OffsetDateTime::now_utc()).context("cannot open the root CA")?;
    for container in &containers {
        write_secrets(container, &own_folder, &arguments.state)?;
        write_ca(container, &authority, &arguments.state)?;
        issue_certificate(container, &authority, &arguments.state, &arguments.front_names)?;
    }
    let mut owners_certificate =
        OwnersCertificate::new(&arguments.front_folder, &arguments.front_certificate, &arguments.front_key)?;
    owners_certificate.pass(&containers, &arguments.state);
    fs::write(&arguments.ready, "").with_context(|| format!("cannot write {}", arguments.ready.display()))?;
    say(&format!("{} containers have their certificates and secrets", containers.len()));
    let mut reconciler = Reconciler::new(&arguments, &authority, &containers);
    tokio::select! {
        () = reconciler.run() => {}
        () = renew_certificates(&authority, &containers, &arguments) => {}
        () = bring_certificates(&mut owners_certificate, &containers, &arguments.state) => {}
        _ = terminate.recv() => {}
    }
    reconciler.stop().await
}

/// Renews at half of its life what the steward has signed; third parties reload it by themselves.
async fn renew_certificates(authority: &Authority, containers: &[Instance], arguments: &Arguments) {
    let mut signed = vec![OffsetDateTime::now_utc(); containers.len()];
    loop {
        tokio::time::sleep(CERTIFICATE_PERIOD).await;
        let now = OffsetDateTime::now_utc();
        for (container, signed) in containers.iter().zip(&mut signed) {
            let Some(third_party) = container.third_party else { continue };
            if third_party.works_once || now - *signed < lifetime(third_party) / 2 {
                continue;
            }
            match issue_certificate(container, authority, &arguments.state, &arguments.front_names) {
                Ok(()) => *signed = now,
                Err(error) => say_error(&format!("{}: {error:#}", container.name)),
            }
        }
    }
}

async fn bring_certificates(owners: &mut OwnersCertificate, containers: &[Instance], state: &Path) {
    loop {
        tokio::time::sleep(front_certificate::PERIOD).await;
        owners.pass(containers, state);
    }
}

/// Makes every secret of the map that is missing in the steward's own folder.
fn ensure_secrets(folder: &Path) -> anyhow::Result<()> {
    let wanted = PLATFORM.workloads().flat_map(|workload| workload.secrets.iter().map(|(secret, _)| *secret));
    platform_secrets::ensure(folder, wanted)
}

fn write_secrets(container: &Instance, own_folder: &Path, state: &Path) -> anyhow::Result<()> {
    for (from, to) in container.workload.secrets {
        let (from, to) = (own_folder.join(from.path), state.join(container.name).join("secrets").join(to));
        let secret = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        if let Some(folder) = to.parent() {
            // The volume belongs to this container alone, so its processes may list the folder.
            make_folder(folder, 0o755)?;
        }
        replace_file(&to, &secret, 0o640, Some(container.workload.user))?;
    }
    Ok(())
}

/// The root CA, which a service needs before it asks Vault for its certificate.
fn write_ca(container: &Instance, authority: &Authority, state: &Path) -> anyhow::Result<()> {
    let folder = state.join(container.name).join("identity");
    make_folder(&folder, 0o755)?;
    replace_file(&folder.join("ca.pem"), authority.pem().as_bytes(), 0o644, None)?;
    Ok(())
}

/// Signs a certificate, unless Vault does.
fn issue_certificate(
    container: &Instance,
    authority: &Authority,
    state: &Path,
    front_names: &FrontNames,
) -> anyhow::Result<()> {
    let Some(third_party) = container.third_party else { return Ok(()) };
    let mut leaf = Leaf::new(peer_name(container), OffsetDateTime::now_utc(), lifetime(third_party));
    leaf.dns_names = dns_names(container, front_names);
    leaf.group = Some(container.workload.user);
    if let Some(common_name) = third_party.common_name {
        common_name.clone_into(&mut leaf.common_name);
    }
    let folder = state.join(container.name).join("identity");
    authority.issue(&leaf, &folder).with_context(|| format!("cannot sign a certificate for {}", container.name))
}

fn lifetime(third_party: &ThirdParty) -> time::Duration {
    if third_party.works_once { ONCE_LIFETIME } else { time::Duration::days(third_party.certificate_days.into()) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use identity::{Identity, IdentityConfig};
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    use topology::Workload;

    use super::*;

    /// Files that a service accepts, and that only the steward and the container's group can read.
    #[tokio::test]
    async fn each_container_gets_its_own_certificate_and_secrets() {
        identity::install_crypto_providers().unwrap();
        let state = tempfile::tempdir().unwrap();
        let own_folder = state.path().join("steward");
        ensure_secrets(&own_folder).unwrap();
        let authority = Authority::generate(OffsetDateTime::now_utc()).unwrap();
        let front_names: FrontNames = "ml.example.org".parse().unwrap();
        // Only root may give a file to a group that it is not in.
        let group = fs::metadata(state.path()).unwrap().gid();
        for container in PLATFORM.instances() {
            let workload = Box::leak(Box::new(Workload { user: group, ..*container.workload }));
            let container = Instance { workload, ..container };
            write_secrets(&container, &own_folder, state.path()).unwrap();
            write_ca(&container, &authority, state.path()).unwrap();
            issue_certificate(&container, &authority, state.path(), &front_names).unwrap();
            let folder = state.path().join(container.name);
            let directory = folder.join("identity");
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
            if container.third_party.is_none() {
                assert!(directory.join("ca.pem").exists() && !directory.join("key.pem").exists(), "{}", container.name);
            } else {
                assert_eq!(mode(&directory.join("key.pem")), 0o640, "{}", container.name);
                // In this test owner and reader are the same user, for which that mode is too wide.
                fs::set_permissions(directory.join("key.pem"), Permissions::from_mode(0o600)).unwrap();
                let until = identity::certificate_pem_not_after(&fs::read(directory.join("certificate.pem")).unwrap());
                let is_short = until.unwrap() <= OffsetDateTime::now_utc() + ONCE_LIFETIME;
                assert_eq!(is_short, container.name == "example-models", "{}", container.name);
                let pem = fs::read(directory.join("certificate.pem")).unwrap();
                let leaf = CertificateDer::from_pem_slice(&pem).unwrap();
                let is_found = leaf.windows(14).any(|bytes| bytes == b"ml.example.org");
                assert_eq!(is_found, container.name == "edge", "{}", container.name);
                assert_eq!(Identity::load(&IdentityConfig { directory }).unwrap().name(), peer_name(&container));
            }
            for (_, to) in container.workload.secrets {
                assert_eq!(mode(&folder.join("secrets").join(to)), 0o640, "{}: {to}", container.name);
            }
        }
        let password = |of: &str| fs::read(state.path().join(of)).unwrap();
        assert_eq!(
            password("mlflow/secrets/database-password"),
            password("detektor-postgres-slave/secrets/roles/mlflow")
        );
        assert_eq!(
            password("ml-serving-tertiary/secrets/s3-secret-key"),
            password("minio/secrets/users/serving/secret-key")
        );
        assert!(!state.path().join("front/secrets").exists());
    }
}
