//! Proves that a platform which was destroyed, with its containers, its volumes and its root CA, comes back from a checkout, the escrow and the
//! copy of its buckets outside, by the steps of `scripts/disaster-recovery`: in time, with all that was acknowledged two minutes before.
//!
//! `scripts/disaster-recovery-test.sh` starts a platform for it and removes it.

mod evidence;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, START_LIMIT, say},
    docker::{as_root, docker, output},
    poll::until,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::{
    ledger::{Ledger, Written},
    load::Load,
    restore::{run, wait_for_base_backup},
};
use evidence::Evidence;

/// To the first correct prediction. Demanded are 4 h.
const RECOVERED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// What may be lost. Demanded is 1 h.
const LOST_MAX: Duration = Duration::from_secs(120);
/// So long is written that some of it must be back.
const LEDGER_WRITTEN: Duration = Duration::from_secs(150);
/// Between two passes of the copy.
const COPY_PERIOD_S: &str = "20";
/// An export, a comparison, a set that is made and restored.
const ESCROW_WITHIN: Duration = Duration::from_secs(300);
const DESTROYED_WITHIN: Duration = Duration::from_secs(180);
const COPIED_WITHIN: Duration = Duration::from_secs(120);
/// While the ledger is written: enough to notice a platform that answers wrongly.
const PREDICTIONS: u32 = 10;

/// What is not on the machine that is lost.
struct Outside {
    identity: PathBuf,
    escrow: PathBuf,
    bucket: PathBuf,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_platform_comes_back_from_its_escrow_and_the_copy_of_its_buckets() {
    let platform = Containers::from_environment().unwrap();
    let folder =
        PathBuf::from(std::env::var("RAMPART_DISASTER_FOLDER").expect("run scripts/disaster-recovery-test.sh"));
    wait_for_base_backup(&platform).await.unwrap();
    let outside = Outside::prepare(&folder).await.unwrap();
    outside.export_escrow().await.unwrap();
    let copier = outside.copy_continuously().await.unwrap();
    let evidence = Evidence::make(&platform, &folder).await.unwrap();
    let predictions = Load::predictions_at(&platform, PREDICTIONS).await;
    let ledger = Ledger::open(&platform).await;
    predictions.steady.go_on(LEDGER_WRITTEN).await.unwrap();

    kill(&platform, copier).await.unwrap();
    let lost = Instant::now();
    let written = ledger.close();
    drop(predictions);
    destroy(&platform).await.unwrap();
    rebuild(&platform, &outside).await.unwrap();
    let recovery = lost.elapsed();
    run("scripts/disaster-recovery/4-models", &[], START_LIMIT).await.unwrap();
    run("scripts/disaster-recovery/5-check", &[], START_LIMIT).await.unwrap();

    let missing = written.missing(&platform).await.unwrap();
    let loss = loss(&written, &missing, lost);
    say(&format!(
        "destroyed and rebuilt: RTO {:.1} s to the first correct prediction; RPO {:.1} s, {} of {} acknowledged rows are missing",
        recovery.as_secs_f64(),
        loss.as_secs_f64(),
        missing.len(),
        written.acknowledged.len()
    ));
    evidence.expect(&platform, &folder).await.unwrap();
    assert!(recovery <= RECOVERED_WITHIN, "the recovery took {recovery:?}");
    assert!(missing.len() < written.acknowledged.len(), "no row of the ledger came back");
    assert!(loss <= LOST_MAX, "the work of {loss:?} is lost");
}

/// What was acknowledged since the oldest row that is missing.
fn loss(written: &Written, missing: &[String], lost: Instant) -> Duration {
    let oldest = missing.iter().filter_map(|name| written.acknowledged.get(name)).min();
    oldest.map_or(Duration::ZERO, |acknowledged| lost.saturating_duration_since(*acknowledged))
}

// === impl Outside ===

impl Outside {
    /// With an identity of age, made by the stock program.
    async fn prepare(folder: &Path) -> anyhow::Result<Self> {
        let (identity, escrow) = (folder.join("identity"), folder.join("escrow.tar.age"));
        let made = in_tools(&[], &["age-keygen"]).await?;
        fs::write(&identity, made)?;
        fs::set_permissions(&identity, Permissions::from_mode(0o600))?;
        Ok(Self { identity, escrow, bucket: folder.join("bucket") })
    }

    /// Proves, too, that the escrow is what the stock programs read, and that it opens the newest backup set.
    async fn export_escrow(&self) -> anyhow::Result<()> {
        let identity = fs::read_to_string(&self.identity)?;
        let recipient =
            identity.lines().find_map(|line| line.strip_prefix("# public key: ")).context("no recipient")?;
        let escrow = path(&self.escrow)?;
        run("scripts/escrow", &["export", escrow, "--recipient", recipient], ESCROW_WITHIN).await?;
        let outside = path(self.escrow.parent().context("a folder")?)?;
        let mount = format!("{outside}:/outside:ro");
        // As the owner of these files.
        let options = ["--user", "0:0", "--volume", &mount];
        let listed = in_tools(
            &options,
            &[
                "bash",
                "-euo",
                "pipefail",
                "-c",
                "age --decrypt --identity /outside/identity /outside/escrow.tar.age | tar --list",
            ],
        )
        .await?;
        for name in [
            "certs/ca-key.pem",
            "certs/vault-unseal-key",
            "state-steward/minio/kms-key",
            "state-steward/backup/age-identity",
        ] {
            ensure!(listed.lines().any(|line| line == name), "the escrow has no {name}: {listed}");
        }
        run("scripts/backup/ml-automated-backup.sh", &[], ESCROW_WITHIN).await?;
        run("scripts/escrow", &["check", escrow, "--identity", path(&self.identity)?], ESCROW_WITHIN).await
    }

    /// Waits for the first whole copy, and leaves the copier running.
    async fn copy_continuously(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(repository().join("scripts/disaster-recovery/copy-bucket"));
        command.args([path(&self.bucket)?, "--each", COPY_PERIOD_S]).stdin(Stdio::null());
        // A group of its own, which is killed at once.
        let copier = command.process_group(0).kill_on_drop(true).spawn()?;
        until("a whole copy of the buckets", COPIED_WITHIN, async || {
            ensure!(self.bucket.join("copied-at").exists(), "there is none yet");
            Ok(())
        })
        .await?;
        Ok(copier)
    }
}

/// Every container at once, and the copier in the middle of what it does.
async fn kill(platform: &Containers, mut copier: Child) -> anyhow::Result<()> {
    let filter = format!("label=com.docker.compose.project={}", platform.project);
    let running = docker(&["ps", "--quiet", "--filter", &filter]).await?;
    let group = format!("-{}", copier.id().context("the copier has ended by itself")?);
    as_root("kill", &["-s", "KILL", "--", &group]).await?;
    let arguments: Vec<&str> = ["kill"].into_iter().chain(running.lines()).collect();
    // One that has just ended by itself cannot be killed, and the others are.
    let _killed = docker(&arguments).await;
    copier.wait().await?;
    Ok(())
}

/// Containers, volumes, the root CA, accounts.
async fn destroy(platform: &Containers) -> anyhow::Result<()> {
    run("scripts/down", &["--destroy", "--keep-images"], DESTROYED_WITHIN).await?;
    let filter = format!("label=com.docker.compose.project={}", platform.project);
    let volumes = docker(&["volume", "ls", "--quiet", "--filter", &filter]).await?;
    ensure!(volumes.is_empty(), "volumes are left: {volumes}");
    for file in ["ca.pem", "ca-key.pem", "vault-unseal-key"] {
        ensure!(!platform.certs.join(file).exists(), "{file} is left");
    }
    Ok(())
}

/// The steps, of which each that can be is done twice; then a prediction as a client makes it.
async fn rebuild(platform: &Containers, outside: &Outside) -> anyhow::Result<()> {
    let (escrow, identity, bucket) = (path(&outside.escrow)?, path(&outside.identity)?, path(&outside.bucket)?);
    let early = run("scripts/disaster-recovery/3-start", &[], START_LIMIT).await;
    ensure!(early.is_err(), "without its bucket a platform would have been started empty");
    for _ in 0..2 {
        run("scripts/disaster-recovery/1-secrets", &[escrow, "--identity", identity], START_LIMIT).await?;
        run("scripts/disaster-recovery/2-bucket", &[bucket], START_LIMIT).await?;
    }
    run("scripts/disaster-recovery/3-start", &[], RECOVERED_WITHIN).await?;
    platform.wait_prediction(START_LIMIT).await.map(drop)
}

/// A command in the container of the tools: what it printed.
async fn in_tools(options: &[&str], command: &[&str]) -> anyhow::Result<String> {
    let arguments = [&["compose", "run", "--rm", "--no-deps", "-T"][..], options, &["tools"], command].concat();
    let ended =
        timeout(ESCROW_WITHIN, output(Command::new("docker").args(arguments).current_dir(repository()))).await??;
    ensure!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8(ended.stdout)?)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}
