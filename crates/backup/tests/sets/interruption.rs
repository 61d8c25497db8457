//! A set that cannot be finished leaves a clear reason and nothing else.

use std::{sync::Arc, time::Duration};

use backup::create::CreateError;
use database::DatabaseConfig;
use testkit::poll_until;
use time::macros::datetime;

use crate::support::{Ground, make};

const NOW: time::OffsetDateTime = datetime!(2026-11-22 02:00 UTC);

/// Proves that a database that does not answer, or refuses, fails the set by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_database_leaves_nothing() {
    let ground = Ground::new().await;
    let mut maker = ground.maker();
    let nobody = DatabaseConfig { port: 1, ..ground.database.clone() };
    // The first is dumped, the second is not: none of it stays.
    maker.databases.push(nobody);
    let error = make(&maker, None, NOW).await.unwrap_err();
    assert!(matches!(&error, CreateError::Dump { .. }), "{error}");
    let missing = DatabaseConfig { name: "missing".into(), ..ground.database.clone() };
    maker.databases = vec![missing];
    let error = make(&maker, None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("missing"), "{}", problem::Chain(&error));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
    assert!(!ground.root().join("2026-11-22").exists());
}

/// Proves that a role without the right to read everything fails the set, in PostgreSQL's own words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_that_may_not_be_read_fails_the_set() {
    let ground = Ground::new().await;
    ground.postgres.sql(&ground.database.name, &format!("REVOKE pg_read_all_data FROM {}", ground.database.user)).await;
    let error = make(&ground.maker(), None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("permission denied"), "{}", problem::Chain(&error));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// Proves that models which cannot be read fail the set before anything of it appears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_folder_with_a_link_fails_the_set() {
    let ground = Ground::new().await;
    std::os::unix::fs::symlink("/etc/passwd", ground.models().join("link")).unwrap();
    let error = make(&ground.maker(), None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("neither a file nor a directory"), "{error}");
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// Proves that a run given up in the middle of its dump leaves neither files nor a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_given_up_in_the_middle_leaves_nothing() {
    let ground = Ground::new().await;
    let lock = ground.postgres.lock(&ground.database.name, "gateway.users");
    let maker = Arc::new(ground.maker());
    let making = tokio::spawn({
        let maker = Arc::clone(&maker);
        async move { make(&maker, None, NOW).await }
    });
    // The dump waits for the lock, so this is its middle: models sealed, database begun.
    let is_in_the_middle = async || {
        let connected = ground
            .postgres
            .sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rampart-backup'");
        connected.await != "0"
    };
    poll_until("pg_dump is connected", Duration::from_secs(20), is_in_the_middle).await;
    assert_eq!(
        ground.leftovers().len(),
        3,
        "a set in the making, a password file and a key file: {:?}",
        ground.leftovers()
    );
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    assert_eq!(ground.leftovers(), Vec::<String>::new());
    drop(lock);
    let is_gone = async || {
        let connected = ground
            .postgres
            .sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rampart-backup'");
        connected.await == "0"
    };
    poll_until("pg_dump is gone", Duration::from_secs(20), is_gone).await;
    make(&maker, None, NOW).await.unwrap();
}

/// Proves that too little room is said before the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_room_is_said_before_the_work() {
    let ground = Ground::new().await;
    let mut maker = ground.maker();
    maker.free_bytes_min = u64::MAX;
    let error = make(&maker, None, NOW).await.unwrap_err();
    assert!(matches!(error, CreateError::NoRoom { .. }), "{error}");
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}
