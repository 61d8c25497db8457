//! Proves that secrets are nowhere but in their own files, after a run in which they were all used and with every log at
//! its loudest.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, alphabet, engine::GeneralPurpose, engine::general_purpose::NO_PAD};
use end_to_end::{
    platform::{Platform, Setup, repository},
    processes::descendants,
    request::Protocol,
};
use http::{Method, StatusCode};
use rustix::io::Errno;
use serde_json::json;

/// At its loudest a test build may be too slow for its health checks.
const COMPLAINTS: &[&str] = &["replica is down"];

const LOUDEST: &[(&str, &str)] = &[
    ("RAMPART_BALANCER__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_GATEWAY__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_SERVING__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_SLA__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_BACKUP__TELEMETRY__LOG_FILTER", "trace"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_found_nowhere_and_nothing_is_left_behind() {
    let platform = Setup { environment: LOUDEST, ..Setup::default() }.start().unwrap();
    let data = platform.state().data.clone();
    let mut needles = Needles::default();
    use_everything(&platform, &mut needles).await;
    assert!(platform.log("gateway-1").contains(r#""level":"TRACE""#), "the logs are at their loudest");

    let own_files = [data.join("secrets"), data.join("tokens"), data.join("ca/ca-key.pem"), data.join("identity")];
    let files = own_files.iter().flat_map(|place| files_in(place)).filter(|path| is_secret(path));
    files.for_each(|file| needles.add_file(&file));
    assert!(needles.owners >= 35, "the secrets are where this test looks: {}", needles.owners);
    let found = needles.search(&[data.join("secrets/operator/admin-password")]);
    assert_eq!(found.len(), 1, "the instrument works: a secret is found in its own file");

    let mut places = files_in(&data);
    // PostgreSQL's account cannot read our folders: it has a copy of its own key, and nobody else's.
    let copy = data.join("postgres/data/server.key");
    places.retain(|path| *path != copy && !own_files.iter().any(|own| path.starts_with(own)));
    assert!(places.iter().any(|path| path.ends_with("gateway-1.log")) && places.len() > 100, "{places:?}");
    places.extend(files_in(&repository()));
    places.extend(process_files(&platform));
    let holders = needles.search(&places);
    assert!(holders.is_empty(), "{}", holders.join("\n"));
    let said = platform.output();
    assert_eq!(needles.owner_of(said.as_bytes()), None, "rampart dev said a secret");
    assert!(said.contains("first prediction"), "what it said is where this test looks: {said}");

    let processes = descendants(platform.supervisor());
    platform.stop(COMPLAINTS).unwrap();
    let left: Vec<_> = processes.iter().filter(|process| process.is_running()).collect();
    assert!(left.is_empty(), "outlived Ctrl-C: {left:?}");
    assert!(!data.exists(), "the test's directory is removed with the platform");
}

/// Logs in rightly and wrongly, predicts, changes a role, revokes, backs up: whatever handles a secret does so.
async fn use_everything(platform: &Platform, needles: &mut Needles) {
    let admin = platform.token("admin").unwrap();
    let (id, token) = platform.account("used", &["analyst"]).await.unwrap();
    needles.add("the account's token", &token);
    let post = async |path: &str, token: Option<&str>, body| {
        platform.call(Method::POST, path, token, Some(&body)).await.unwrap().0
    };

    // Not written here: this file is searched as well.
    let random = |length| token.chars().rev().take(length).collect::<String>();
    let (wrong, garbage) = (random(24), random(40));
    needles.add("a wrong password", &wrong);
    let login = json!({ "grant_type": "password", "username": "admin", "password": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let login = json!({ "grant_type": "client_credentials", "client_id": "used", "client_secret": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let forged = format!("{}AAAAAAAA", &token[..token.len() - 8]);
    needles.add("a forged token", &forged);
    needles.add("a bad token", &garbage);
    for bad in [&forged, &garbage] {
        for path in ["/api/admin/users", "/v2"] {
            let (status, _) = platform.call(Method::GET, path, Some(bad.as_str()), None).await.unwrap();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }

    for (protocol, prediction) in [
        (Protocol::Http1, platform.golden_prediction(&token).await.unwrap()),
        (Protocol::Http2, platform.grpc_prediction(&token).unwrap()),
    ] {
        let answer = platform.front(protocol).unwrap().connect().await.unwrap().call(&prediction).await.unwrap();
        prediction.check(&answer).unwrap();
    }
    let roles = json!({ "roles": ["viewer"] });
    let (status, _) =
        platform.call(Method::PATCH, &format!("/api/admin/users/{id}"), Some(&admin), Some(&roles)).await.unwrap();
    assert!(status.is_success(), "{status}");
    let (_, revoked) = platform.account("revoked", &["analyst"]).await.unwrap();
    needles.add("the revoked token", &revoked);
    assert!(post("/api/auth/revoke", Some(&revoked), json!({ "token": revoked })).await.is_success());

    let made = platform.backup(&["create"], "operator").unwrap();
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap();
    let verified = platform.backup(&["verify", set.trim()], "operator").unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

/// What is looked for: every secret as it is, and in base64 wherever it may begin in what was encoded.
#[derive(Default)]
struct Needles {
    /// Whose it is, and its text.
    needles: Vec<(String, String)>,
    owners: usize,
}

// === impl Needles ===

impl Needles {
    fn add(&mut self, owner: &str, value: &str) {
        assert!(value.len() >= 16 && !value.contains('\n'), "{owner} cannot be looked for");
        self.owners += 1;
        self.needles.push((owner.to_owned(), value.to_owned()));
        for alphabet in [&alphabet::STANDARD, &alphabet::URL_SAFE] {
            let engine = GeneralPurpose::new(alphabet, NO_PAD);
            // Three bytes become four characters: what is before it decides its first characters, what follows its last.
            for (before, mixed) in [(0, 0), (1, 2), (2, 3)] {
                let encoded = engine.encode([&vec![0; before], value.as_bytes()].concat());
                let whole = encoded.len() - usize::from(!(before + value.len()).is_multiple_of(3));
                self.needles.push((format!("{owner} in base64"), encoded[mixed..whole].to_owned()));
            }
        }
    }

    fn add_file(&mut self, path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        let value = text.trim().trim_start_matches("Authorization: Bearer ");
        // Of a PEM file any line of the key is the secret, not the frame around it.
        let lines = value.lines().filter(|line| !line.starts_with("-----"));
        self.add(&path.display().to_string(), lines.max_by_key(|line| line.len()).unwrap_or_default());
    }

    /// The files that hold one of them. `grep` reads a hundred megabytes in the time in which a test build reads one.
    fn search(&self, places: &[PathBuf]) -> Vec<String> {
        let mut patterns = tempfile::NamedTempFile::new().unwrap();
        let lines: Vec<_> = self.needles.iter().map(|(_, text)| text.as_str()).collect();
        patterns.write_all(lines.join("\n").as_bytes()).unwrap();
        let mut grep = Command::new("grep");
        grep.env("LC_ALL", "C").args(["--fixed-strings", "--text", "--files-with-matches", "--file"]);
        let output = grep.arg(patterns.path()).arg("--").args(places).output().unwrap();
        // What has gone meanwhile, a process or a file of the database, holds nothing.
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let unread: Vec<_> = complaints.lines().filter(|line| !line.contains("No such ")).collect();
        assert!(unread.is_empty(), "not searched: {unread:?}");
        let found = String::from_utf8(output.stdout).unwrap();
        found
            .lines()
            .map(|path| format!("{path} holds {:?}", self.owner_of(&fs::read(path).unwrap_or_default())))
            .collect()
    }

    fn owner_of(&self, text: &[u8]) -> Option<&str> {
        let is_in = |needle: &str| text.windows(needle.len()).any(|window| window == needle.as_bytes());
        self.needles.iter().find(|(_, needle)| is_in(needle)).map(|(owner, _)| owner.as_str())
    }
}

/// Public: certificates, and whom backups are encrypted to.
fn is_secret(path: &Path) -> bool {
    let is_certificate = path.ends_with("certificate.pem") || path.ends_with("ca.pem");
    !is_certificate && !path.ends_with("age-recipient")
}

/// Every file below, or the file itself; not what Git keeps packed, nor what a build left, nor links and sockets.
fn files_in(place: &Path) -> Vec<PathBuf> {
    let Ok(kind) = fs::symlink_metadata(place) else { return Vec::new() };
    if kind.is_file() {
        return vec![place.to_owned()];
    }
    let is_left_out = place.ends_with(".git") || place.join("CACHEDIR.TAG").exists();
    if !kind.is_dir() || is_left_out {
        return Vec::new();
    }
    let entries = fs::read_dir(place).unwrap().flatten();
    entries.flat_map(|entry| files_in(&entry.path())).collect()
}

/// Arguments and environment of every process. What cannot be read is somebody else's: it is none of the platform's.
fn process_files(platform: &Platform) -> Vec<PathBuf> {
    let ours: Vec<u32> = descendants(platform.supervisor()).iter().map(|process| process.id).collect();
    assert!(ours.len() >= 9, "the processes are where this test looks: {ours:?}");
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for path in ["cmdline", "environ"].map(|name| entry.path().join(name)) {
            match fs::read(&path) {
                Ok(_) => files.push(path),
                Err(error) => assert!(
                    is_gone(&error) || !ours.contains(&id),
                    "{} of the platform cannot be searched: {error}",
                    path.display()
                ),
            }
        }
    }
    files
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::SRCH].map(|errno| Some(errno.raw_os_error()));
    gone.contains(&error.raw_os_error())
}
