//! Proves the strict profile from its first start to a restart: what docs/OPERATIONS.md tells people to do is all that they
//! have to do, and no share lies on the machine.

use std::{io::Write as _, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, START_LIMIT, say},
    docker::{Container, as_root, docker, output},
    poll::until,
};
use serde_json::Value;
use tokio::process::Command;

/// Who runs the steward.
const STEWARD: &str = "10002";
const SHARES_NEEDED: usize = 3;
/// The steward looks each second.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

/// Destroys the platform of the tests and starts it anew in the other profile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_people_can_open_vault() {
    let platform = Containers::from_environment().unwrap();
    let scripts = repository().join("scripts");
    let down = output(Command::new(scripts.join("down")).args(["--destroy", "--keep-images"])).await.unwrap();
    assert!(down.status.success(), "{down:?}");
    let certs = platform.certs.to_str().unwrap();
    as_root("install", &["--directory", "--owner", STEWARD, certs]).await.unwrap();

    let mut up = Command::new(scripts.join("up"));
    up.env("RAMPART_UNSEAL_BY_PEOPLE", "true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let up = up.kill_on_drop(true).spawn().unwrap();
    let vault = platform.container("vault");
    let opened = open(&platform, &vault).await.unwrap();
    let up = tokio::time::timeout(START_LIMIT, up.wait_with_output()).await.unwrap().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    platform.wait_prediction(START_LIMIT).await.unwrap();
    say("strict profile: people initialized and opened Vault, and a prediction came");
    assert!(as_root("test", &["-e", &format!("{certs}/vault-unseal-key")]).await.is_err(), "no share was written down");

    // It stays sealed after a restart until people open it, and predictions go on meanwhile.
    docker(&["restart", &vault.name]).await.unwrap();
    let restarted = vault.inspect().await.unwrap().pointer("/State/StartedAt").unwrap().as_str().unwrap().to_owned();
    until("the steward says who has to open it", NOTICED_WITHIN, async || {
        ensure!(is_sealed(&vault).await?, "it is not sealed");
        let steward = platform.container("steward").name;
        let logs = output(Command::new("docker").args(["logs", "--since", &restarted, &steward])).await?;
        ensure!(String::from_utf8_lossy(&logs.stderr).contains("people do that"), "the steward says nothing of it");
        Ok(())
    })
    .await
    .unwrap();
    platform.wait_prediction(NOTICED_WITHIN).await.unwrap();
    unseal(&vault, &opened).await.unwrap();
    let healthy = platform.wait_healthy(START_LIMIT).await.unwrap();
    say(&format!("strict profile: healthy {:.1} s after people opened Vault again", healthy.as_secs_f64()));
}

/// What people do at the first start: the shares that they have afterwards.
async fn open(platform: &Containers, vault: &Container) -> anyhow::Result<Vec<String>> {
    until("Vault answers", START_LIMIT, async || is_sealed(vault).await.map(drop)).await?;
    let init = ["vault", "operator", "init", "-format=json", "-key-shares=5", "-key-threshold=3"];
    let told: Value = serde_json::from_str(&vault.run(&init).await?)?;
    let shares = told.get("unseal_keys_b64").and_then(Value::as_array).context("no shares")?;
    let shares: Vec<String> = shares.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    unseal(vault, &shares).await?;

    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(told.get("root_token").and_then(Value::as_str).context("no token")?.as_bytes())?;
    let (from, to) = (file.path().to_string_lossy().into_owned(), platform.certs.join("vault-token"));
    let to = to.to_str().context("a path")?;
    as_root("install", &["--mode", "0400", "--owner", STEWARD, &from, to]).await?;
    Ok(shares)
}

async fn unseal(vault: &Container, shares: &[String]) -> anyhow::Result<()> {
    for share in shares.iter().take(SHARES_NEEDED) {
        vault.run(&["vault", "operator", "unseal", share]).await?;
    }
    ensure!(!is_sealed(vault).await?, "{SHARES_NEEDED} shares are not enough");
    Ok(())
}

/// `vault status` ends with 2 when it is.
async fn is_sealed(vault: &Container) -> anyhow::Result<bool> {
    let status = output(Command::new("docker").args(["exec", &vault.name, "vault", "status"])).await?;
    match status.status.code() {
        Some(0) => Ok(false),
        Some(2) => Ok(true),
        _ => anyhow::bail!("{}", String::from_utf8_lossy(&status.stderr).trim()),
    }
}
