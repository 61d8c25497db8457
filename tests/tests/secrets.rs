//! Proves that secrets are only in their own files, after a run in which all were used, with every log at TRACE.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use end_to_end::{
    checkout::repository,
    platform::{Platform, Setup},
    processes::descendants,
    request::Protocol,
    secret_search::{SecretSearch, files_in},
};
use http::{Method, StatusCode};
use rustix::io::Errno;
use serde_json::json;

/// At TRACE a test build may be too slow for its health checks.
const EXPECTED_WARNINGS: &[&str] = &["replica is down"];

const TRACE_LOGS: &[(&str, &str)] = &[
    ("RAMPART_BALANCER__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_GATEWAY__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_SERVING__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_SLA__TELEMETRY__LOG_FILTER", "trace"),
    ("RAMPART_BACKUP__TELEMETRY__LOG_FILTER", "trace"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_found_nowhere_and_nothing_is_left_behind() {
    let platform = Setup { environment: TRACE_LOGS, ..Setup::default() }.start().unwrap();
    let data = platform.state().data.clone();
    let mut secrets = SecretSearch::default();
    use_everything(&platform, &mut secrets).await;
    assert!(platform.log("gateway-1").contains(r#""level":"TRACE""#), "the logs are at TRACE");

    let own_files = [data.join("secrets"), data.join("tokens"), data.join("ca/ca-key.pem"), data.join("identity")];
    let files = own_files.iter().flat_map(|place| files_in(place)).filter(|path| is_secret(path));
    files.for_each(|file| secrets.add_file(&file).unwrap());
    assert!(secrets.owners >= 35, "the secrets are where this test looks: {}", secrets.owners);
    let found = secrets.search(&[data.join("secrets/operator/admin-password")]).unwrap();
    assert_eq!(found.len(), 1, "the control: a secret is found in its own file");

    let mut places = files_in(&data);
    // PostgreSQL's account cannot read the folders of the platform, so it has a copy of its own key.
    let copy = data.join("postgres/data/server.key");
    places.retain(|path| *path != copy && !own_files.iter().any(|own| path.starts_with(own)));
    assert!(places.iter().any(|path| path.ends_with("gateway-1.log")) && places.len() > 100, "{places:?}");
    places.extend(files_in(&repository()));
    places.extend(process_files(&platform));
    let holders = secrets.search(&places).unwrap();
    assert!(holders.is_empty(), "{}", holders.join("\n"));
    let printed = platform.output();
    assert_eq!(secrets.owner_of(printed.as_bytes()), None, "rampart dev printed a secret");
    assert!(printed.contains("first prediction"), "this is the output of rampart dev: {printed}");

    let processes = descendants(platform.supervisor());
    platform.stop(EXPECTED_WARNINGS).unwrap();
    let left: Vec<_> = processes.iter().filter(|process| process.is_running()).collect();
    assert!(left.is_empty(), "outlived Ctrl-C: {left:?}");
    assert!(!data.exists(), "the test's directory is removed with the platform");
}

/// Uses every secret: good and bad logins, predictions, a change of a role, a revocation, a backup.
async fn use_everything(platform: &Platform, secrets: &mut SecretSearch) {
    let admin = platform.token("admin").unwrap();
    let (id, token) = platform.account("used", &["analyst"]).await.unwrap();
    secrets.add("the account's token", &token).unwrap();
    let post = async |path: &str, token: Option<&str>, body| {
        platform.front.call(Method::POST, path, token, Some(&body)).await.unwrap().0
    };

    // Not written here: this file is searched as well.
    let random = |length| token.chars().rev().take(length).collect::<String>();
    let (wrong, garbage) = (random(24), random(40));
    secrets.add("a wrong password", &wrong).unwrap();
    let login = json!({ "grant_type": "password", "username": "admin", "password": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let login = json!({ "grant_type": "client_credentials", "client_id": "used", "client_secret": wrong });
    assert_eq!(post("/api/auth/token", None, login).await, StatusCode::UNAUTHORIZED);
    let forged = format!("{}AAAAAAAA", &token[..token.len() - 8]);
    secrets.add("a forged token", &forged).unwrap();
    secrets.add("a bad token", &garbage).unwrap();
    for bad in [&forged, &garbage] {
        for path in ["/api/admin/users", "/v2"] {
            let (status, _) = platform.front.call(Method::GET, path, Some(bad.as_str()), None).await.unwrap();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }

    for (protocol, prediction) in [
        (Protocol::Http1, platform.front.golden_prediction(&token).await.unwrap()),
        (Protocol::Http2, platform.front.grpc_prediction(&token).unwrap()),
    ] {
        let answer = platform.front.server(protocol).unwrap().connect().await.unwrap().call(&prediction).await.unwrap();
        prediction.check(&answer).unwrap();
    }
    let roles = json!({ "roles": ["viewer"] });
    let (status, _) = platform
        .front
        .call(Method::PATCH, &format!("/api/admin/users/{id}"), Some(&admin), Some(&roles))
        .await
        .unwrap();
    assert!(status.is_success(), "{status}");
    let (_, revoked) = platform.account("revoked", &["analyst"]).await.unwrap();
    secrets.add("the revoked token", &revoked).unwrap();
    assert!(post("/api/auth/revoke", Some(&revoked), json!({ "token": revoked })).await.is_success());

    let made = platform.backup(&["create"], "operator").unwrap();
    assert!(made.status.success(), "{made:?}");
    let set = String::from_utf8(made.stdout).unwrap();
    let verified = platform.backup(&["verify", set.trim()], "operator").unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

/// Certificates and the key that backups are encrypted to are public.
fn is_secret(path: &Path) -> bool {
    let is_certificate = path.ends_with("certificate.pem") || path.ends_with("ca.pem");
    !is_certificate && !path.ends_with("age-recipient")
}

/// Arguments and environment of every process. Only those of another user's processes may be unreadable.
fn process_files(platform: &Platform) -> Vec<PathBuf> {
    let platform_ids: Vec<u32> = descendants(platform.supervisor()).iter().map(|process| process.id).collect();
    assert!(platform_ids.len() >= 9, "the processes are where this test looks: {platform_ids:?}");
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for path in ["cmdline", "environ"].map(|name| entry.path().join(name)) {
            match fs::read(&path) {
                Ok(_) => files.push(path),
                Err(error) => assert!(
                    is_gone(&error) || !platform_ids.contains(&id),
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
