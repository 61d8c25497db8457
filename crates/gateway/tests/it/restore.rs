//! After a restore of the database to an earlier time nothing from before is valid, and what is new holds at once: on gateways
//! that go on running and remember more than the restored tables have.

use std::time::{Duration, Instant};

use gateway::audit::{GENESIS, StoredRecord, verify_chain};
use http::{Method, StatusCode, header};
use proto::auth::v1::watch_revocations_response::Event;
use serde_json::{Value, json};
use testkit::poll_until;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::Code;

use crate::{
    client::{Client, TestResponse, password_of},
    world::{ADMIN_PASSWORD, World},
};

const USER: &str = "0191a5c4-0000-7000-8000-000000000001";
/// A gateway waits for a connection of a busy PostgreSQL for 2 s at a time.
const WITHIN: Duration = Duration::from_secs(20);
/// A revocation on one gateway reaches the other.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// The database of a world as it was at one time. A restore puts it back: connections end, rows and sequences are those of then,
/// and the setting names the restore before a gateway can connect.
struct Saved<'a> {
    world: &'a World,
    copy: String,
}

// === impl Saved ===

impl<'a> Saved<'a> {
    async fn new(world: &'a World) -> Self {
        let saved = Self { world, copy: format!("{}_saved", world.database.name) };
        saved.close().await;
        saved.sql(&format!("CREATE DATABASE {} TEMPLATE {}", saved.copy, world.database.name)).await;
        saved.open().await;
        saved
    }

    /// Puts it back, for superusers only. The setting names the restore.
    async fn put_back(&self, restored_at: &str) {
        let (name, copy) = (&self.world.database.name, &self.copy);
        self.close().await;
        self.sql(&format!("DROP DATABASE {name}")).await;
        self.sql(&format!("CREATE DATABASE {name} TEMPLATE {copy} CONNECTION LIMIT 0")).await;
        self.sql(&format!("ALTER DATABASE {name} SET rampart.restored_at = '{restored_at}'")).await;
    }

    /// Lets gateways connect.
    async fn open(&self) {
        self.sql(&format!("ALTER DATABASE {} CONNECTION LIMIT -1", self.world.database.name)).await;
    }

    async fn restore(&self, restored_at: &str) {
        self.put_back(restored_at).await;
        self.open().await;
    }

    /// Ends all connections; superusers alone can make new ones.
    async fn close(&self) {
        let name = &self.world.database.name;
        self.sql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 0")).await;
        self.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    }

    async fn sql(&self, sql: &str) {
        self.world.postgres.sql("postgres", sql).await;
    }
}

async fn exchange(client: &Client, refresh_token: &str) -> TestResponse {
    client.token(&json!({ "grant_type": "refresh_token", "refresh_token": refresh_token })).await
}

async fn revoke(client: &Client, token: &str) {
    let body = json!({ "token": token });
    client.call(Method::POST, "/api/auth/revoke", Some(token), Some(&body)).await.expect_status(StatusCode::OK);
}

/// Whether the token is refused, and not merely not judged.
async fn is_refused(client: &Client, token: &str) -> bool {
    client.authorize(token, "serving").await.is_err_and(|status| status.code() == Code::Unauthenticated)
}

async fn wait_until_refused(clients: &[&Client], tokens: &[(&str, &str)]) {
    let restored = Instant::now();
    for client in clients {
        for (what, token) in tokens {
            poll_until(&format!("{what} is refused"), WITHIN, async || is_refused(client, token).await).await;
        }
    }
    println!("every token from before is refused after {:?}", restored.elapsed());
}

/// The answer, once the gateway is connected again.
async fn sign_in_again(client: &Client, name: &str, password: &str) -> TestResponse {
    let mut answer = None;
    poll_until("the gateway has its database again", PATIENCE, async || {
        answer = Some(client.sign_in(name, password).await);
        answer.as_ref().is_some_and(|answer| answer.status != StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    answer.unwrap()
}

/// Every chain of the log, as it is stored, verifies from its beginning.
async fn verify_chains(world: &World) -> usize {
    let writers = world.postgres.sql(&world.database.name, "SELECT DISTINCT writer FROM gateway.audit").await;
    let mut count = 0;
    for writer in writers.lines().map(str::trim) {
        let sql = format!(
            "SELECT json_build_object('seq', seq, 'record', record, 'previous', encode(previous_hash, 'hex'), 'hash', encode(hash, 'hex'))
             FROM gateway.audit WHERE writer = '{writer}' ORDER BY seq"
        );
        let rows = world.postgres.sql(&world.database.name, &sql).await;
        let records: Vec<StoredRecord> = rows.lines().map(|row| stored(writer, row)).collect();
        verify_chain((0, GENESIS), &records).unwrap();
        count += records.len();
    }
    count
}

fn stored(writer: &str, row: &str) -> StoredRecord {
    let row: Value = serde_json::from_str(row).unwrap();
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    let record: Value = serde_json::from_str(&text("record")).unwrap();
    StoredRecord {
        writer: writer.to_owned(),
        seq: row["seq"].as_i64().unwrap(),
        at: OffsetDateTime::parse(record["at"].as_str().unwrap(), &Rfc3339).unwrap(),
        record: text("record"),
        previous_hash: hex::decode(text("previous")).unwrap(),
        hash: hex::decode(text("hash")).unwrap(),
    }
}

async fn restores_recorded(world: &World) -> Vec<Value> {
    let records = world.audit_records().await;
    records.into_iter().filter(|record| record["event"] == "database.restored").collect()
}

async fn change_roles(client: &Client, admin: &str, id: &str, roles: &[&str]) {
    let (path, body) = (format!("/api/admin/users/{id}"), json!({ "roles": roles }));
    client.call(Method::PATCH, &path, Some(admin), Some(&body)).await.expect_status(StatusCode::OK);
}

#[tokio::test]
async fn after_a_restore_nothing_from_before_is_valid_and_what_is_new_holds() {
    let world = World::new().await;
    let (one, two) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let (here, there) = (world.client(&one), world.client(&two));
    let replica = Client::new(&world.identity("serving"), two.main);
    let admin = here.bootstrap().await;
    let ada = here.person(&admin, "ada", &["analyst"]).await;
    let (_, machine) = here.machine(&admin, "robot", &["analyst"]).await;
    let kept = there.sign_in("ada", &password_of("ada")).await;
    let ended = there.sign_in("ada", &password_of("ada")).await.text("access_token");
    replica.change_model("a", false, USER).await.unwrap();
    let saved = Saved::new(&world).await;

    // All of this is undone by the restore.
    sign_in_again(&here, "ada", &password_of("ada")).await.expect_status(StatusCode::OK);
    sign_in_again(&there, "ada", &password_of("ada")).await.expect_status(StatusCode::OK);
    here.person(&admin, "bob", &["analyst"]).await;
    let bob = here.sign_in("bob", &password_of("bob")).await.text("access_token");
    let rotated = exchange(&there, &kept.text("refresh_token")).await.expect_status(StatusCode::OK);
    revoke(&here, &ended).await;
    for roles in [["viewer"], ["analyst"], ["viewer"], ["analyst"]] {
        change_roles(&here, &admin, &ada, &roles).await;
    }
    let before = there.authorize(&kept.text("access_token"), "serving").await.unwrap();
    replica.change_model("a", true, USER).await.unwrap();
    let models = replica.change_model("b", false, USER).await.unwrap();
    let mut stream = there.watch().await;
    let begin = stream.message().await.unwrap().unwrap();
    assert!(begin.feed_position >= before.feed_position);

    let logged = [&one, &two].map(|gateway| gateway.log().len());
    saved.restore("2026-12-01T10:00:00Z").await;
    let (first, second) = (kept.text("access_token"), rotated.text("access_token"));
    let old = [
        ("the administrator's", admin.as_str()),
        ("one of before the time", &first),
        ("one of after it", &second),
        ("the one that was revoked", &ended),
        ("that of a user who is not there", &bob),
        ("a machine's", &machine),
    ];
    wait_until_refused(&[&here, &there], &old).await;
    for client in [&here, &there] {
        for refresh in [kept.text("refresh_token"), rotated.text("refresh_token")] {
            exchange(client, &refresh).await.expect_status(StatusCode::UNAUTHORIZED);
        }
        sign_in_again(client, "bob", &password_of("bob")).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    assert_streams_begin_beyond(&there, stream, begin.feed_position).await;

    let token = sign_in_again(&here, "ada", &password_of("ada")).await.text("access_token");
    let granted = there.authorize(&token, "serving").await.unwrap();
    assert!(
        granted.authz_version > before.authz_version && granted.feed_position > before.feed_position,
        "{granted:?}"
    );
    assert_a_revocation_comes_after(&here, &there, &token, granted.feed_position).await;

    let restored = replica.sync_models(&[]).await.unwrap();
    assert!(restored.generation > models.generation, "{restored:?}");
    assert_eq!(restored.models.iter().map(|it| (&*it.name, it.loaded)).collect::<Vec<_>>(), [("a", false)]);
    let changed = replica.change_model("b", false, USER).await.unwrap();
    assert!(changed.generation > restored.generation && changed.models.len() == 2, "{changed:?}");

    let recorded = restores_recorded(&world).await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(recorded[0]["details"]["restored_at"], "2026-12-01T10:00:00Z");
    assert_eq!(recorded[0]["details"]["users"], 3);
    println!("{} records verify", verify_chains(&world).await);
    for (gateway, logged) in [&one, &two].into_iter().zip(logged) {
        let is_verified = || gateway.log()[logged..].contains("the audit chain was verified");
        poll_until("the chain is verified from its beginning again", PATIENCE, async || is_verified()).await;
        assert!(!gateway.log().contains("tampered"));
    }
}

/// A token that is revoked now is told of at a place beyond those of before.
async fn assert_a_revocation_comes_after(here: &Client, there: &Client, token: &str, position: u64) {
    let mut stream = there.watch().await;
    revoke(here, token).await;
    poll_until("the new token is revoked", REVOKED_WITHIN, async || is_refused(there, token).await).await;
    let event = loop {
        let message = stream.message().await.unwrap().unwrap();
        if matches!(message.event, Some(Event::TokenId(_))) {
            break message;
        }
    };
    assert!(event.feed_position > position);
}

/// What a balancer follows: the stream of before ends, and a new one begins beyond every place that it has heard of.
async fn assert_streams_begin_beyond(
    gateway: &Client,
    mut before: tonic::Streaming<proto::auth::v1::WatchRevocationsResponse>,
    position: u64,
) {
    let ended = tokio::time::timeout(WITHIN, async {
        loop {
            if let Err(status) = before.message().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.expect("the stream of before ends").code(), Code::Aborted);
    let begin = gateway.watch().await.message().await.unwrap().unwrap();
    assert!(begin.feed_position > position, "{begin:?}");
}

/// Logins, refreshes and changes wait; what was granted by the memory of before goes on, as without a database.
#[tokio::test]
async fn until_a_restore_is_settled_nothing_is_granted() {
    let (world, gateway, client, admin) = World::begin().await;
    let replica = Client::new(&world.identity("serving"), gateway.main);
    replica.change_model("a", false, USER).await.unwrap();
    let login = client.sign_in("admin", ADMIN_PASSWORD).await;
    let saved = Saved::new(&world).await;
    sign_in_again(&client, "admin", ADMIN_PASSWORD).await.expect_status(StatusCode::OK);
    saved.put_back("2026-12-01T10:00:00Z").await;
    let lock = world.lock("gateway.locks");
    saved.open().await;

    let is_unsettled = |answer: &TestResponse| {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(answer.headers.contains_key(header::RETRY_AFTER), "{answer:?}");
        answer.json().to_string().contains("the database was restored")
    };
    poll_until("the gateway notices", PATIENCE, async || is_unsettled(&client.sign_in("admin", ADMIN_PASSWORD).await))
        .await;
    assert!(is_unsettled(&exchange(&client, &login.text("refresh_token")).await));
    assert!(client.is_valid(&admin).await, "by the memory of before");
    let user = json!({ "name": "robot", "kind": "machine", "roles": [] });
    let change = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
    assert!(change.expect_status(StatusCode::SERVICE_UNAVAILABLE).headers.contains_key(header::RETRY_AFTER));
    let answers = [
        replica.sync_models(&[]).await,
        replica.sync_models(&["b"]).await,
        replica.change_model("a", true, USER).await,
    ];
    for answer in answers {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("the database was restored"), "{status}");
    }
    let fresh = world.start_gateway("gateway-2");
    let early = world.client(&fresh);
    let answer = early.sign_in("admin", ADMIN_PASSWORD).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER), "{answer:?}");
    assert!(!early.is_serving().await);
    assert_eq!(early.authorize(&admin, "serving").await.unwrap_err().code(), Code::Unavailable, "it has no memory");

    drop(lock);
    world.until_serving(&fresh).await;
    wait_until_refused(&[&client, &early], &[("the administrator's", &admin)]).await;
    for gateway in [&client, &early] {
        let token = sign_in_again(gateway, "admin", ADMIN_PASSWORD).await.text("access_token");
        assert!(client.is_valid(&token).await && early.is_valid(&token).await);
    }
    assert_eq!(restores_recorded(&world).await.len(), 1);
}

/// Also one to a time before the first was settled, when the tables know nothing of what was given out since; and one to a time
/// before the table of restores was made.
#[tokio::test]
async fn each_restore_is_settled_once_and_goes_beyond_the_one_before() {
    let (world, gateway, client, _) = World::begin().await;
    let mut token = client.sign_in("admin", ADMIN_PASSWORD).await.text("access_token");
    let mut before = client.authorize(&token, "serving").await.unwrap();
    let saved = Saved::new(&world).await;
    let older = "DROP TABLE gateway.restores; DELETE FROM gateway._sqlx_migrations WHERE version = 7";
    for (restored_at, change) in [("first", ""), ("second", ""), ("third", older)] {
        world.postgres.sql(&saved.copy, change).await;
        saved.restore(restored_at).await;
        wait_until_refused(&[&client], &[("that of before", &token)]).await;
        token = sign_in_again(&client, "admin", ADMIN_PASSWORD).await.text("access_token");
        let granted = client.authorize(&token, "serving").await.unwrap();
        assert!(granted.authz_version > before.authz_version && granted.feed_position > before.feed_position);
        before = granted;
        let recorded = restores_recorded(&world).await;
        assert_eq!(recorded.len(), 1, "{recorded:?}");
        assert_eq!(recorded[0]["details"]["restored_at"], restored_at);
        verify_chains(&world).await;
    }
    let restarted = world.gateway("gateway-2").await;
    assert!(world.client(&restarted).is_valid(&token).await, "a start settles nothing twice");
    assert!(client.is_valid(&token).await);
    assert!(!gateway.log().contains("tampered"));
}
