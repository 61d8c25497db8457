//! Alone in its process, because it counts by the process's metrics.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, time::Duration};

use identity::{Identity, IdentityConfig};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use testkit::{
    ca::{Ca, Leaf},
    poll_until,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

/// Does something to the files of a directory that must not be taken over.
type Spoil<'a> = &'a dyn Fn(&Path);

/// Whatever is wrong with new files, they are refused and counted once, the old pair stays, and good files end it.
#[tokio::test]
async fn bad_files_are_refused_and_the_old_pair_stays() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
    let at = directory.path();
    ca.issue("gateway", "gateway-1", at);
    let identity = Identity::load(&IdentityConfig { directory: at.to_owned() }).unwrap();
    let stop = CancellationToken::new();
    let watch = tokio::spawn(identity.clone().watch(stop.clone()));
    let good = identity.chain_and_key();
    let gateway = || Leaf::of("gateway", "gateway-1");

    let spoilt: [(&str, Spoil<'_>); 7] = [
        ("truncated certificate", &|at| truncate(&at.join("certificate.pem"))),
        ("key of another", &|at| {
            let other = tempfile::tempdir().unwrap();
            ca.issue("gateway", "gateway-1", other.path());
            fs::copy(other.path().join("key.pem"), at.join("key.pem")).unwrap();
        }),
        ("expired", &|at| ca.issue_leaf(&gateway().valid(-3600, -60), at)),
        ("name of another", &|at| ca.issue("backup", "backup-1", at)),
        ("foreign CA in the bundle", &|at| Ca::write_bundle(&[&Ca::foreign()], at)),
        ("empty bundle", &|at| fs::write(at.join("ca.pem"), "").unwrap()),
        ("no key", &|at| fs::remove_file(at.join("key.pem")).unwrap()),
    ];
    for (count, (what, spoil)) in (1_u64..).zip(spoilt) {
        spoil(at);
        until(&metrics, "ml_identity_reload_failures_total", count).await;
        assert_eq!(identity.chain_and_key(), good, "{what} replaced a good pair");
        assert_eq!(identity.generation(), 0, "{what} counted as a reload");
    }

    ca.issue("gateway", "gateway-1", at);
    until(&metrics, "ml_identity_reloads_total", 1).await;
    assert_ne!(identity.chain_and_key(), good);
    assert_eq!(value(&metrics, "ml_identity_reload_failures_total"), Some(7), "a refusal was counted more than once");
    let not_after = value(&metrics, "ml_identity_certificate_not_after_timestamp_seconds");
    assert_eq!(not_after, u64::try_from(identity.not_after().unix_timestamp()).ok());
    stop.cancel();
    watch.await.unwrap();
}

fn truncate(path: &Path) {
    let content = fs::read(path).unwrap();
    fs::write(path, content.split_at(content.len() / 2).0).unwrap();
}

async fn until(metrics: &PrometheusHandle, name: &str, wanted: u64) {
    poll_until(&format!("{name} is {wanted}"), PATIENCE, async || value(metrics, name) == Some(wanted)).await;
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters and times are whole and positive"
)]
fn value(metrics: &PrometheusHandle, name: &str) -> Option<u64> {
    let rendered = metrics.render();
    let line = rendered.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse::<f64>().ok().map(|value| value as u64)
}
