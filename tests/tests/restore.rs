//! Proves what happens after the whole database was restored to an earlier time, under gateways, a balancer and replicas that go
//! on running: nothing from before is valid, and new logins, revocations and models hold at once.
//!
//! The restore is a copy of PostgreSQL's data directory that is put back, with the setting that names it, while `rampart dev`
//! stands still, which would start the server again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    containers::say,
    inference::MODEL,
    platform::Platform,
    poll::{throughout, until, until_every},
    processes::descendants,
    request::{Protocol, Template},
};
use gateway::audit::{GENESIS, StoredRecord, verify_chain};
use http::{Method, StatusCode};
use pg_sandbox::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

const PASSWORD: &str = "a password of twenty-seven";
const RESTORED_AT: &str = "2026-12-01T10:00:00Z";
const REVOKED_WITHIN: Duration = Duration::from_secs(2);
/// From the start of the restored database until no token of before is taken.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(20);
/// Enough that each of three replicas has many of them.
const CALLS: usize = 60;

/// What a warning of a healthy run begins with when the database goes away and comes back at an earlier time.
const EXPECTED: [&str; 8] = [
    "users and revocations cannot be followed",
    "the change feed does not go on",
    "the database was restored to an earlier time",
    "the database cannot be reached now",
    "minutes were not reported to the SLA tracker",
    "the figures cannot be computed",
    "scheduled backups wait",
    "acquired connection, but time to acquire exceeded slow threshold",
];

/// PostgreSQL is stopped, and `rampart dev` stands still so that it does not start it again. Both go on when this is dropped.
struct Stopped(Pid);

struct Login {
    access: String,
    refresh: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_the_database_nothing_from_before_is_valid_and_what_is_new_holds() {
    let platform = Platform::start(&[]).unwrap();
    let root = make_person(&platform, "root", &["admin"]).await;
    make_person(&platform, "ada", &["analyst", "engineer"]).await;
    let (_, machine) = platform.account("robot", &["analyst"]).await.unwrap();
    let dev = platform.token("analyst").unwrap();
    let [kept, revoked] = [sign_in(&platform, "ada").await.unwrap(), sign_in(&platform, "ada").await.unwrap()];
    let copy = save(&platform).await;

    // All of this is undone by the restore.
    let admin = until_signed_in(&platform, "root").await;
    raise_version(&platform, &admin.access, "ada").await;
    let bob = make_person_by(&platform, &admin.access, "bob", &["analyst"]).await;
    let rotated = refresh(&platform, &kept.refresh).await.unwrap();
    revoke(&platform, &revoked.access).await;
    change(&platform, &rotated.access, "unload").await;
    assert_calls(&platform, &rotated.access, StatusCode::NOT_FOUND).await;

    for token in [&kept.access, &bob.access, &machine, &dev] {
        let prediction = platform.front.prediction(token).unwrap();
        assert_eq!(status_of(&platform, &prediction).await.unwrap(), StatusCode::NOT_FOUND, "the balancer has a grant");
    }

    restore(&platform, &copy).await;
    let started = Instant::now();
    for token in
        [&kept, &revoked, &root, &admin, &bob, &rotated].map(|login| &login.access).into_iter().chain([&machine, &dev])
    {
        until_refused(&platform, token, ENDED_WITHIN).await;
    }
    say(&format!("no token of before is taken {:?} after PostgreSQL could be started", started.elapsed()));
    let new = until_signed_in(&platform, "ada").await;
    for token in [&kept, &revoked, &root, &admin, &bob, &rotated].map(|login| &login.refresh) {
        let refused = refresh(&platform, token).await.err().context("it was exchanged").unwrap();
        assert!(format!("{refused:#}").contains("401"), "{refused:#}");
    }
    assert!(sign_in(&platform, "bob").await.is_err(), "the restored database has no such user");

    // What is new: predictions, models on every replica, and revocations on the balancer that remembers higher versions.
    until_served(&platform, &new.access).await;
    assert_calls(&platform, &new.access, StatusCode::OK).await;
    change(&platform, &new.access, "unload").await;
    assert_calls(&platform, &new.access, StatusCode::NOT_FOUND).await;
    change(&platform, &new.access, "load").await;
    assert_calls(&platform, &new.access, StatusCode::OK).await;
    revoke(&platform, &new.access).await;
    until_refused(&platform, &new.access, REVOKED_WITHIN).await;
    let new = sign_in(&platform, "ada").await.unwrap();
    assert_calls(&platform, &new.access, StatusCode::OK).await;
    let admin = sign_in(&platform, "root").await.unwrap();
    let path = format!("/api/admin/users/{}/revoke", user_id(&platform, &admin.access, "ada").await);
    let (status, _) = platform.front.call(Method::POST, &path, Some(&admin.access), None).await.unwrap();
    assert_eq!(status, StatusCode::NO_CONTENT);
    until_refused(&platform, &new.access, REVOKED_WITHIN).await;

    assert_audit(&platform, &admin.access).await;
    platform.stop(&EXPECTED).unwrap();
}

async fn make_person(platform: &Platform, name: &str, roles: &[&str]) -> Login {
    make_person_by(platform, &platform.token("admin").unwrap(), name, roles).await
}

async fn make_person_by(platform: &Platform, admin: &str, name: &str, roles: &[&str]) -> Login {
    let user = json!({ "name": name, "kind": "person", "tenant": "default", "roles": roles, "password": PASSWORD });
    let (status, made) = platform.front.call(Method::POST, "/api/admin/users", Some(admin), Some(&user)).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{made}");
    sign_in(platform, name).await.unwrap()
}

async fn sign_in(platform: &Platform, name: &str) -> anyhow::Result<Login> {
    login(platform, &json!({ "grant_type": "password", "username": name, "password": PASSWORD })).await
}

async fn refresh(platform: &Platform, token: &str) -> anyhow::Result<Login> {
    login(platform, &json!({ "grant_type": "refresh_token", "refresh_token": token })).await
}

async fn login(platform: &Platform, grant: &Value) -> anyhow::Result<Login> {
    let (status, body) = platform.front.call(Method::POST, "/api/auth/token", None, Some(grant)).await?;
    ensure!(status.is_success(), "{status} {body}");
    let text = |name| Ok::<_, anyhow::Error>(body.get(name).and_then(Value::as_str).context(name)?.to_owned());
    Ok(Login { access: text("access_token")?, refresh: text("refresh_token")? })
}

/// Signs in once the gateways have their database again.
async fn until_signed_in(platform: &Platform, name: &str) -> Login {
    let mut login = None;
    until("a sign-in works", PATIENCE, async || {
        login = Some(sign_in(platform, name).await?);
        Ok(())
    })
    .await
    .unwrap();
    login.unwrap()
}

async fn revoke(platform: &Platform, token: &str) {
    let body = json!({ "token": token });
    let (status, answer) =
        platform.front.call(Method::POST, "/api/auth/revoke", Some(token), Some(&body)).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn user_id(platform: &Platform, admin: &str, name: &str) -> String {
    let (_, users) = platform.front.call(Method::GET, "/api/admin/users?limit=200", Some(admin), None).await.unwrap();
    let users = users.get("users").and_then(Value::as_array).unwrap();
    let user = users.iter().find(|user| user.get("name").and_then(Value::as_str) == Some(name)).unwrap();
    user.get("id").and_then(Value::as_str).unwrap().to_owned()
}

/// The balancer remembers the versions of these changes; those of the restored database are lower.
async fn raise_version(platform: &Platform, admin: &str, name: &str) {
    let path = format!("/api/admin/users/{}", user_id(platform, admin, name).await);
    until("the gateway follows the feed again", PATIENCE, async || {
        for roles in [json!(["analyst"]), json!(["analyst", "engineer"])].iter().cycle().take(6) {
            let body = json!({ "roles": roles });
            let (status, answer) = platform.front.call(Method::PATCH, &path, Some(admin), Some(&body)).await?;
            ensure!(status == StatusCode::OK, "{status} {answer}");
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn change(platform: &Platform, token: &str, verb: &str) {
    let path = format!("/v2/repository/models/{MODEL}/{verb}");
    let (status, answer) = platform.front.call(Method::POST, &path, Some(token), None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// Many calls at once after another, so that every replica has some.
async fn assert_calls(platform: &Platform, token: &str, status: StatusCode) {
    let prediction = platform.front.prediction(token).unwrap();
    let mut connection = platform.front.server(Protocol::Http2).unwrap().connect().await.unwrap();
    for _ in 0..CALLS {
        assert_eq!(connection.call(&prediction).await.unwrap().status, status);
    }
}

/// The model was unloaded before, so each replica must have learnt that it is to serve again.
async fn until_served(platform: &Platform, token: &str) {
    let prediction = platform.front.prediction(token).unwrap();
    let mut connection = platform.front.server(Protocol::Http2).unwrap().connect().await.unwrap();
    until("every replica serves what the restored state says", PATIENCE, async || {
        for _ in 0..CALLS {
            connection.call(&prediction).await?.expect_good()?;
        }
        Ok(())
    })
    .await
    .unwrap();
}

/// In time, and from then on.
async fn until_refused(platform: &Platform, token: &str, limit: Duration) {
    let prediction = platform.front.prediction(token).unwrap();
    let refused = async || {
        let status = status_of(platform, &prediction).await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "{status}");
        Ok(())
    };
    let taken = until_every(POLL_PERIOD, "the token is refused", limit, refused).await.unwrap();
    throughout(POLL_PERIOD, REVOKED_WITHIN, refused).await.unwrap();
    say(&format!("refused after {taken:?}"));
}

async fn status_of(platform: &Platform, prediction: &Template) -> anyhow::Result<StatusCode> {
    Ok(platform.front.server(Protocol::Http1)?.connect().await?.call(prediction).await?.status)
}

/// Every chain verifies from its beginning, and the log has the restore once.
async fn assert_audit(platform: &Platform, admin: &str) {
    let mut chains: BTreeMap<String, Vec<StoredRecord>> = BTreeMap::new();
    let mut restored = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/admin/audit?limit=200{cursor}");
        let (status, page) = platform.front.call(Method::GET, &path, Some(admin), None).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{page}");
        for record in page.get("records").and_then(Value::as_array).unwrap() {
            let record = stored(record);
            if record.record.contains("database.restored") {
                assert!(record.record.contains(RESTORED_AT), "{record:?}");
                restored.insert((record.writer.clone(), record.seq));
            }
            chains.entry(record.writer.clone()).or_default().push(record);
        }
        let Some(next) = page.get("next_cursor").and_then(Value::as_str) else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(restored.len(), 1, "{restored:?}");
    for (writer, mut records) in chains {
        records.reverse();
        let (end, _) = verify_chain((0, GENESIS), &records).unwrap();
        say(&format!("{writer}: {end} records verify"));
    }
}

fn stored(shown: &Value) -> StoredRecord {
    let text = |name: &str| shown.get(name).and_then(Value::as_str).unwrap().to_owned();
    let bytes = |name: &str| hex::decode(text(name)).unwrap();
    let record: Value = serde_json::from_str(&text("record")).unwrap();
    StoredRecord {
        writer: text("writer"),
        seq: shown.get("seq").and_then(Value::as_i64).unwrap(),
        at: OffsetDateTime::parse(record.get("at").and_then(Value::as_str).unwrap(), &Rfc3339).unwrap(),
        record: text("record"),
        previous_hash: bytes("previous_hash"),
        hash: bytes("hash"),
    }
}

/// A copy of the database as it is now: the folder of a cluster that is not running.
async fn save(platform: &Platform) -> PathBuf {
    let copy = platform.state().data.join("restored");
    let _stopped = Stopped::new(platform).await;
    fs::create_dir(&copy).unwrap();
    copy_files(&data_directory(platform), &copy.join("data"));
    copy
}

/// Puts the copy back. The setting is made before a service can connect: until then the server listens on a socket of its own.
async fn restore(platform: &Platform, copy: &Path) {
    let _stopped = Stopped::new(platform).await;
    let cluster = Cluster::open(copy, None, &[]).await.unwrap().start().await.unwrap();
    let sql = format!("ALTER DATABASE detektor SET rampart.restored_at = '{RESTORED_AT}'");
    cluster.sql("postgres", &sql).await.unwrap();
    drop(cluster);
    fs::remove_dir_all(data_directory(platform)).unwrap();
    fs::rename(copy.join("data"), data_directory(platform)).unwrap();
}

fn data_directory(platform: &Platform) -> PathBuf {
    platform.state().data.join("postgres/data")
}

/// With the owners: the server may run under an account of its own.
fn copy_files(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

// === impl Stopped ===

impl Stopped {
    async fn new(platform: &Platform) -> Self {
        let supervisor = pid(platform.supervisor());
        kill_process(supervisor, Signal::STOP).unwrap();
        let stopped = Self(supervisor);
        let file = fs::read_to_string(data_directory(platform).join("postmaster.pid")).unwrap();
        let server: u32 = file.lines().next().unwrap().trim().parse().unwrap();
        kill_process(pid(server), Signal::INT).unwrap();
        until("PostgreSQL has ended", PATIENCE, async || {
            let is_there = descendants(platform.supervisor()).iter().any(|process| process.id == server);
            ensure!(!is_there, "it is there");
            Ok(())
        })
        .await
        .unwrap();
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}
