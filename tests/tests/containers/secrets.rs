//! Proves that what the platform keeps secret is nowhere but where it is kept: every secret, plain and in base64, is looked for
//! in the images, in what Docker tells, in arguments and environment, in the logs, in Vault's and MinIO's own files, and in
//! the tree.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::repository,
    containers::{Containers, say},
    docker::{as_root, docker},
    secret_search::{SecretSearch, files_in},
};
use serde_json::Value;

/// Has `tar` and `grep`, and is there.
const BASE: &str = "debian:trixie-slim";
/// Names for whom a secret is, and what is public.
const NO_SECRETS: &[&str] = &[
    "ca.pem",
    "certificate.pem",
    "names",
    "age-recipient",
    "root-user",
    "access-key",
    "s3-access-key",
    "example-request.json",
    "lock",
    "plugins.sha256",
    "README.md",
];
/// Every container has its image, the tools too.
const IMAGES_MIN: usize = 18;
/// Volumes in which others keep what was entrusted to them: not in the clear.
const KEPT_BY_OTHERS: &[&str] = &["vault", "vault-audit", "minio"];
/// A line of an image's own script: what is in the images is where this test looks.
const IN_AN_IMAGE: &str = "It must outlive its own mistakes, so it is started again";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_found_outside_of_its_own_file() {
    let platform = Containers::from_environment().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let needles = gather(&platform, directory.path()).await.unwrap();
    say(&format!("{} secrets are looked for", needles.owners));
    assert!(needles.owners >= 40, "the secrets are where this test looks");
    let own = needles.search(&[platform.access.join("secrets/operator/admin-password")]).unwrap();
    assert_eq!(own.len(), 1, "the instrument works: a secret is found in its own file");

    let mut holders = in_files(&platform, &needles, directory.path()).await.unwrap();
    holders.extend(in_volumes(&platform, &needles).await.unwrap());
    holders.extend(in_images(&needles).await.unwrap());
    assert!(holders.is_empty(), "{}", holders.join("\n"));
}

/// As docs/OPERATIONS.md tells: the values of a file are encrypted to a key, and come back with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_live_in_git_is_encrypted_by_sops() {
    let script = "set -e; cd /tmp; age-keygen -o key.txt 2>&1; printf 'token: %s\nurl: https://example.org\n' a-secret >receivers.yaml; \
        sops encrypt --age \"$(age-keygen -y key.txt)\" --in-place receivers.yaml; cat receivers.yaml; echo ---; \
        SOPS_AGE_KEY_FILE=key.txt sops decrypt receivers.yaml";
    let said = docker(&["run", "--rm", "--network", "none", "rampart/tools", "bash", "-c", script]).await.unwrap();
    let (encrypted, decrypted) = said.split_once("---\ntoken").unwrap();
    assert!(encrypted.contains("token: ENC[AES256_GCM,") && !encrypted.contains("a-secret"), "{encrypted}");
    assert_eq!(decrypted.trim(), ": a-secret\nurl: https://example.org");
}

/// Every secret: out of the steward's volumes, the folder of the root CA, the accounts, and what services hold in memory.
async fn gather(platform: &Containers, directory: &Path) -> anyhow::Result<SecretSearch> {
    let volumes = volumes(platform, "state-").await?;
    let mut arguments: Vec<String> = ["run", "--rm", "--network", "none"].map(ToOwned::to_owned).to_vec();
    for volume in &volumes {
        arguments.extend(["--volume".to_owned(), format!("{volume}:/kept/{volume}:ro")]);
    }
    for (name, folder) in [("certs", &platform.certs), ("access", &platform.access)] {
        arguments.extend(["--volume".to_owned(), format!("{}:/kept/{name}:ro", folder.display())]);
    }
    arguments.push(BASE.to_owned());
    arguments.extend(["tar", "--create", "--directory", "/kept", "."].map(ToOwned::to_owned));
    unpack(Command::new("docker").args(&arguments), directory)?;

    for service in platform.services().await? {
        let folder = directory.join(format!("{}_state-{service}", platform.project));
        if folder.join("secrets/vault-login.json").exists() {
            let name = platform.container(&service).name;
            let memory = directory.join("memory").join(&service);
            fs::create_dir_all(&memory)?;
            unpack(
                Command::new("docker").args(["exec", &name, "tar", "--create", "--directory", "/run", "."]),
                &memory,
            )?;
        }
    }
    let mut needles = SecretSearch::default();
    for file in files_in(directory) {
        add(&mut needles, &file)?;
    }
    Ok(needles)
}

fn unpack(pack: &mut Command, folder: &Path) -> anyhow::Result<()> {
    let mut child = pack.stdout(std::process::Stdio::piped()).spawn()?;
    let packed = child.stdout.take().context("it prints to us")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--no-same-permissions", "--mode=u+rwX", "--directory"]);
    let unpacked = tar.arg(folder).stdin(packed).output()?;
    ensure!(child.wait()?.success() && unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    Ok(())
}

fn add(needles: &mut SecretSearch, file: &Path) -> anyhow::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if NO_SECRETS.contains(&name.as_str()) || fs::metadata(file)?.len() == 0 {
        return Ok(());
    }
    if name == "vault-login.json" {
        let login: Value = serde_json::from_slice(&fs::read(file)?)?;
        let secret = login.get("secret_id").and_then(Value::as_str).context("no secret_id")?;
        return needles.add(&file.display().to_string(), secret);
    }
    needles.add_file(file)
}

/// What Docker tells, what the containers say, how their processes were started, and the tree.
async fn in_files(platform: &Containers, needles: &SecretSearch, directory: &Path) -> anyhow::Result<Vec<String>> {
    let said = directory.join("said");
    fs::create_dir(&said)?;
    let mut places = Vec::new();
    for service in platform.services().await?.into_iter().chain(["bootstrap".into(), "example-models".into()]) {
        let name = platform.container(&service).name;
        let inspected = docker(&["inspect", &name]).await?;
        let logs = Command::new("docker").args(["logs", &name]).output()?;
        let processes = docker(&["top", &name, "-eo", "pid"]).await.unwrap_or_default();
        let mut started = String::new();
        for process in processes.lines().skip(1) {
            for file in ["cmdline", "environ"] {
                // It may have ended meanwhile.
                started += &as_root("cat", &[&format!("/proc/{}/{file}", process.trim())]).await.unwrap_or_default();
            }
        }
        let log = [logs.stdout, logs.stderr].concat();
        let texts = [("inspect", inspected.as_bytes()), ("log", &log), ("processes", started.as_bytes())];
        for (what, text) in texts {
            let place = said.join(format!("{service}.{what}"));
            fs::write(&place, text)?;
            places.push(place);
        }
    }
    let has = |name: &str, text: &str| fs::read_to_string(said.join(name)).is_ok_and(|said| said.contains(text));
    ensure!(has("gateway-a.log", "\"level\""), "the logs are where this test looks");
    ensure!(has("gateway-a.processes", "rampart-gateway"), "the processes are where this test looks");
    places.extend(files_in(&repository()).into_iter().filter(|path| !is_kept(platform, path)));
    needles.search(&places)
}

/// The folders of a platform may lie in the tree; they are no part of it.
fn is_kept(platform: &Containers, path: &Path) -> bool {
    let ignored = ["certs", "access"].map(|name| repository().join(name));
    ignored.iter().chain([&platform.certs, &platform.access]).any(|kept| path.starts_with(kept))
}

async fn in_volumes(platform: &Containers, needles: &SecretSearch) -> anyhow::Result<Vec<String>> {
    let patterns = needles.pattern_file()?;
    let mut arguments: Vec<String> = ["run", "--rm", "--network", "none"].map(ToOwned::to_owned).to_vec();
    for volume in KEPT_BY_OTHERS {
        arguments.extend(["--volume".to_owned(), format!("{0}_{volume}:/kept/{volume}:ro", platform.project)]);
    }
    arguments.extend(["--volume".to_owned(), format!("{}:/patterns:ro", patterns.path().display())]);
    let grep =
        ["grep", "--recursive", "--fixed-strings", "--text", "--files-with-matches", "--file=/patterns", "/kept"];
    let output = Command::new("docker").args(&arguments).arg(BASE).args(grep).output()?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code().is_some_and(|code| code < 2), "not searched: {complaints}");
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|path| format!("{path} of a volume holds a secret"))
        .collect())
}

/// Every layer of every image, and how it was made.
async fn in_images(needles: &SecretSearch) -> anyhow::Result<Vec<String>> {
    let listed = docker(&["images", "--filter", "reference=rampart/*", "--format", "{{.Repository}}"]).await?;
    let images: Vec<&str> = listed.lines().collect();
    ensure!(images.len() >= IMAGES_MIN, "only these images: {images:?}");
    let mut control = SecretSearch::default();
    control.add("control", IN_AN_IMAGE)?;
    let postgres = images.iter().find(|image| image.ends_with("postgres")).context("no image of PostgreSQL")?;
    let found = control.search_output(Command::new("docker").args(["save", postgres]))?;
    ensure!(!found.is_empty(), "the images are where this test looks");

    let saved = needles.search_output(Command::new("docker").arg("save").args(&images))?;
    let inspected = needles.search_output(Command::new("docker").args(["image", "inspect"]).args(&images))?;
    say(&format!("{} images searched", images.len()));
    Ok(saved.into_iter().chain(inspected).map(|owner| format!("an image holds {owner}")).collect())
}

async fn volumes(platform: &Containers, what: &str) -> anyhow::Result<Vec<String>> {
    let filter = format!("label=com.docker.compose.project={}", platform.project);
    let listed = docker(&["volume", "ls", "--filter", &filter, "--format", "{{.Name}}"]).await?;
    let start = format!("{}_{what}", platform.project);
    let found: Vec<String> = listed.lines().filter(|name| name.starts_with(&start)).map(ToOwned::to_owned).collect();
    ensure!(!found.is_empty(), "the project has no volumes {start}…");
    Ok(found)
}
