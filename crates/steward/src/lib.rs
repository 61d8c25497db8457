#![doc = include_str!("../README.md")]

mod containers;
mod vault;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use authority::{Authority, Leaf};
use bootstrap::{say, say_error};
use secrets::{make_folder, replace_file};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

use containers::{ALL, Access, Container};
use vault::{Settings, Tender};

/// How often it is seen whether a certificate is due.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(600);

/// What `rampart steward` can be told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder with a volume for each container, named like it.
    #[arg(long, default_value = "/state")]
    state: PathBuf,
    /// Where the root CA lies: `ca.pem` for everybody, `ca-key.pem` for nobody. Vault's unseal share, too.
    #[arg(long, default_value = "/certs")]
    certs: PathBuf,
    /// Written once everything is in its place, for the health check.
    #[arg(long, default_value = "/run/ready")]
    ready: PathBuf,
    /// Vault.
    #[arg(long, default_value = "https://vault:8200")]
    vault: String,
    /// What Vault's container says of its database plugin.
    #[arg(long, default_value = "/vault-about/plugins.sha256")]
    vault_plugin_digest: PathBuf,
    /// The strict profile: people initialize and unseal Vault, and put a token into certs/vault-token.
    #[arg(long, env = "RAMPART_UNSEAL_BY_PEOPLE", default_value_t = false)]
    unseal_by_people: bool,
    /// How long the certificates of our services live; they renew them at half of it. Seconds, at least 60.
    #[arg(long, env = "RAMPART_CERTIFICATE_LIFETIME_S", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(60..))]
    certificate_lifetime_s: u32,
    /// How often Vault changes the services' passwords of the database. Seconds, at least 10.
    #[arg(long, env = "RAMPART_DATABASE_ROTATION_S", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(10..))]
    database_rotation_s: u32,
}

/// Makes what is missing, gives everybody theirs, then renews it, and looks after Vault, until SIGTERM.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    identity::install_crypto_providers().context("cannot choose the cryptography")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let kept = arguments.state.join("steward");
    containers::ensure_secrets(&kept)?;
    let authority =
        Authority::open_or_create(&arguments.certs, OffsetDateTime::now_utc()).context("cannot open the root CA")?;
    for container in &ALL {
        give_secrets(container, &kept, &arguments.state)?;
        give_ca(container, &authority, &arguments.state)?;
        give_certificate(container, &authority, &arguments.state)?;
    }
    fs::write(&arguments.ready, "").with_context(|| format!("cannot write {}", arguments.ready.display()))?;
    say(&format!("{} containers have their certificates and secrets", ALL.len()));
    let settings = Settings {
        address: arguments.vault,
        certs: arguments.certs,
        state: arguments.state.clone(),
        is_strict: arguments.unseal_by_people,
        certificate_lifetime: Duration::from_secs(arguments.certificate_lifetime_s.into()),
        rotation_period: Duration::from_secs(arguments.database_rotation_s.into()),
        plugin_digest: arguments.vault_plugin_digest,
    };
    let mut tender = Tender::new(&settings, &authority, &ALL);
    tokio::select! {
        () = tender.run() => {}
        () = keep_certificates(&authority, &arguments.state) => {}
        _ = terminate.recv() => {}
    }
    tender.end().await
}

/// Renews what the steward has signed at half of its life; third parties look for a new one by themselves.
async fn keep_certificates(authority: &Authority, state: &Path) {
    let mut signed = [OffsetDateTime::now_utc(); ALL.len()];
    loop {
        tokio::time::sleep(CERTIFICATE_PERIOD).await;
        let now = OffsetDateTime::now_utc();
        for (container, signed) in ALL.iter().zip(&mut signed) {
            if now - *signed < container.lifetime / 2 {
                continue;
            }
            match give_certificate(container, authority, state) {
                Ok(()) => *signed = now,
                Err(error) => say_error(&format!("{}: {error:#}", container.name)),
            }
        }
    }
}

fn give_secrets(container: &Container, kept: &Path, state: &Path) -> anyhow::Result<()> {
    for (from, to) in container.secrets {
        let (from, to) = (kept.join(from), state.join(container.name).join("secrets").join(to));
        let secret = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        if let Some(folder) = to.parent() {
            // The volume is the container's alone; whoever is in it may look around.
            make_folder(folder, 0o755)?;
        }
        replace_file(&to, &secret, 0o640, Some(container.group))?;
    }
    Ok(())
}

/// Whom to trust; who asks Vault for a certificate must know it before.
fn give_ca(container: &Container, authority: &Authority, state: &Path) -> anyhow::Result<()> {
    let folder = state.join(container.name).join("identity");
    make_folder(&folder, 0o755)?;
    replace_file(&folder.join("ca.pem"), authority.pem().as_bytes(), 0o644, None)?;
    Ok(())
}

/// Signs a certificate, unless it comes from Vault.
fn give_certificate(container: &Container, authority: &Authority, state: &Path) -> anyhow::Result<()> {
    if container.access == Access::Service {
        return Ok(());
    }
    let leaf = Leaf::new(container.peer_name(), OffsetDateTime::now_utc(), container.lifetime)
        .with_names(&[container.name])
        .with_names(container.dns_names)
        .readable_by_group(container.group);
    let leaf = match container.common_name {
        Some(common_name) => leaf.common_name(common_name),
        None => leaf,
    };
    let folder = state.join(container.name).join("identity");
    authority.issue(&leaf, &folder).with_context(|| format!("cannot sign a certificate for {}", container.name))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use identity::{Identity, IdentityConfig};

    use super::*;

    /// What a service of ours accepts, and nobody but the steward and its own group can read.
    #[tokio::test]
    async fn each_container_gets_its_own() {
        identity::install_crypto_providers().unwrap();
        let state = tempfile::tempdir().unwrap();
        let kept = state.path().join("steward");
        containers::ensure_secrets(&kept).unwrap();
        let authority = Authority::generate(OffsetDateTime::now_utc()).unwrap();
        // Nobody but root may give a file to a group of others.
        let group = fs::metadata(state.path()).unwrap().gid();
        for container in ALL {
            let container = Container { group, ..container };
            give_secrets(&container, &kept, state.path()).unwrap();
            give_ca(&container, &authority, state.path()).unwrap();
            give_certificate(&container, &authority, state.path()).unwrap();
            let folder = state.path().join(container.name);
            let directory = folder.join("identity");
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
            if container.access == Access::Service {
                assert!(directory.join("ca.pem").exists() && !directory.join("key.pem").exists(), "{}", container.name);
            } else {
                assert_eq!(mode(&directory.join("key.pem")), 0o640, "{}", container.name);
                // Here owner and reader are one, for whom that mode would be too much.
                fs::set_permissions(directory.join("key.pem"), Permissions::from_mode(0o600)).unwrap();
                assert_eq!(Identity::load(&IdentityConfig { directory }).unwrap().name(), container.peer_name());
            }
            for (_, to) in container.secrets {
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

    /// The compose file and the image must know exactly the containers that the steward knows.
    #[test]
    fn every_container_has_a_volume_of_its_own() {
        let compose = include_str!("../../../docker-compose.yml");
        let image = include_str!("../../../docker/rampart/Dockerfile");
        for container in &ALL {
            let (given, taken) =
                (format!("state-{0}:/state/{0}\n", container.name), format!("\"state-{}:/state:ro\"", container.name));
            assert_eq!(compose.matches(&given).count(), 1, "{given}");
            assert_eq!(compose.matches(&taken).count(), 1, "{taken}");
            assert!(image.contains(&format!(" {}", container.name)), "{} has no folder in the image", container.name);
        }
        assert_eq!(compose.matches(":/state:ro\"").count(), ALL.len(), "somebody has a volume that nobody fills");
    }
}
