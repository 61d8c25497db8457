//! Proves that secrets are nowhere but in their own files, after a run in which they were all used and with every log at
//! its loudest.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use end_to_end::{
    checkout::repository,
    needles::{Needles, files_in},
    platform::{Platform, Setup},
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
    files.for_each(|file| needles.add_file(&file).unwrap());
    assert!(needles.owners >= 35, "the secrets are where this test looks: {}", needles.owners);
    let found = needles.search(&[data.join("secrets/operator/admin-password")]).unwrap();
    assert_eq!(found.len(), 1, "the instrument works: a secret is found in its own file");

    let mut places = files_in(&data);
    // PostgreSQL's account cannot read our folders: it has a copy of its own key, and nobody else's.
    let copy = data.join("postgres/data/server.key");
    places.retain(|path| *path != copy && !own_files.iter().any(|own| path.starts_with(own)));
    assert!(places.iter().any(|path| path.ends_with("gateway-1.log")) && places.len() > 100, "{places:?}");
    places.extend(files_in(&repository()));
    places.extend(process_files(&platform));
    let holders = needles.search(&places).unwrap();
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
    needles.add("the account's token", &token).unwrap();
    let post = async |path: &str, token: Option<&str>, body| {
        platform.call(Method::POST, path, token, Some(&body)).await.unwrap().0
    };

    // Not written here: this file is searched as well.
    let random = |length| token.chars().rev().take(length).collect::<String>();
    let (wrong, garbage) = (random(24), random(40));
    needles.add("a wrong password", &wrong).unwrap();
    let login = json!({ "grant_type": "password", "username": "admin", "password": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let login = json!({ "grant_type": "client_credentials", "client_id": "used", "client_secret": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let forged = format!("{}AAAAAAAA", &token[..token.len() - 8]);
    needles.add("a forged token", &forged).unwrap();
    needles.add("a bad token", &garbage).unwrap();
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
    needles.add("the revoked token", &revoked).unwrap();
    assert!(post("/api/auth/revoke", Some(&revoked), json!({ "token": revoked })).await.is_success());

    let made = platform.backup(&["create"], "operator").unwrap();
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap();
    let verified = platform.backup(&["verify", set.trim()], "operator").unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

/// Public: certificates, and whom backups are encrypted to.
fn is_secret(path: &Path) -> bool {
    let is_certificate = path.ends_with("certificate.pem") || path.ends_with("ca.pem");
    !is_certificate && !path.ends_with("age-recipient")
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
