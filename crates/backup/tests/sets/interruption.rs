//! A set that cannot be completed leaves a reason and no files.

use std::{sync::Arc, time::Duration};

use backup::set_builder::BuildError;
use database::DatabaseConfig;
use testkit::poll_until;
use time::macros::datetime;

use crate::support::{TestSite, build};

const NOW: time::OffsetDateTime = datetime!(2026-11-22 02:00 UTC);

/// Proves that a database that does not answer, or refuses, fails the set by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_database_leaves_no_files() {
    let site = TestSite::new().await;
    let mut builder = site.builder();
    let unreachable = DatabaseConfig { port: 1, ..site.database.clone() };
    // The first is dumped, the second is not: no file of it stays.
    builder.databases.push(unreachable);
    let error = build(&builder, None, NOW).await.unwrap_err();
    assert!(matches!(&error, BuildError::Dump { .. }), "{error}");
    let missing = DatabaseConfig { name: "missing".into(), ..site.database.clone() };
    builder.databases = vec![missing];
    let error = build(&builder, None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("missing"), "{}", problem::Chain(&error));
    assert_eq!(site.leftovers(), Vec::<String>::new());
    assert!(!site.root().join("2026-11-22").exists());
}

/// Proves that a role without the right to read everything fails the set, in PostgreSQL's own words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_permission_fails_the_set() {
    let site = TestSite::new().await;
    site.postgres.sql(&site.database.name, &format!("REVOKE pg_read_all_data FROM {}", site.database.user)).await;
    let error = build(&site.builder(), None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("permission denied"), "{}", problem::Chain(&error));
    assert_eq!(site.leftovers(), Vec::<String>::new());
}

/// Proves that models which cannot be read fail the set before anything of it appears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_folder_with_a_link_fails_the_set() {
    let site = TestSite::new().await;
    std::os::unix::fs::symlink("/etc/passwd", site.models().join("link")).unwrap();
    let error = build(&site.builder(), None, NOW).await.unwrap_err();
    assert!(problem::Chain(&error).to_string().contains("neither a file nor a directory"), "{error}");
    assert_eq!(site.leftovers(), Vec::<String>::new());
}

/// Proves that a run aborted in the middle of its dump leaves neither files nor a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_aborted_in_the_middle_leaves_no_files() {
    let site = TestSite::new().await;
    let lock = site.postgres.lock(&site.database.name, "gateway.users");
    let builder = Arc::new(site.builder());
    let building = tokio::spawn({
        let builder = Arc::clone(&builder);
        async move { build(&builder, None, NOW).await }
    });
    // The dump waits for the lock, so this is its middle: models encrypted, database begun.
    let is_in_the_middle = async || {
        let connected = site
            .postgres
            .sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rampart-backup'");
        connected.await != "0"
    };
    poll_until("pg_dump is connected", Duration::from_secs(20), is_in_the_middle).await;
    assert_eq!(site.leftovers().len(), 3, "an incomplete set, a password file and a key file: {:?}", site.leftovers());
    building.abort();
    assert!(building.await.unwrap_err().is_cancelled());
    assert_eq!(site.leftovers(), Vec::<String>::new());
    drop(lock);
    let is_gone = async || {
        let connected = site
            .postgres
            .sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rampart-backup'");
        connected.await == "0"
    };
    poll_until("pg_dump is gone", Duration::from_secs(20), is_gone).await;
    build(&builder, None, NOW).await.unwrap();
}

/// Proves that too little disk space is reported before the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_disk_space_fails_before_the_work() {
    let site = TestSite::new().await;
    let mut builder = site.builder();
    builder.free_bytes_min = u64::MAX;
    let error = build(&builder, None, NOW).await.unwrap_err();
    assert!(matches!(error, BuildError::NoRoom { .. }), "{error}");
    assert_eq!(site.leftovers(), Vec::<String>::new());
}
