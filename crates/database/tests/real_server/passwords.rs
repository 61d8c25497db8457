//! A password changes while the process runs.

use std::fs;

use database::{DatabaseError, map_error};
use problem::Kind;
use testkit::poll_until;

use crate::world::{PATIENCE, World, one};

/// The file and the server change together, and the very next connection works: it is refused once and reads again.
#[tokio::test]
async fn a_changed_password_fails_no_call() {
    let world = World::new().await;
    assert_eq!(one(&world.database).await.unwrap(), 1);
    change(&world, "the new one").await;
    fs::write(world.config.password_file.path(), "the new one").unwrap();

    let mut connection = world.database.acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *connection).await.unwrap();
    let transaction = world.database.begin().await.unwrap();
    transaction.rollback().await.unwrap();
}

/// A pool that is not used through `acquire` gets the new password, too, because the file is polled.
#[tokio::test]
async fn a_changed_file_is_noticed_without_being_refused_first() {
    let world = World::new().await;
    change(&world, "the new one").await;
    assert_eq!(map_error(one(&world.database).await.unwrap_err()).kind(), Kind::Unavailable);
    fs::write(world.config.password_file.path(), "the new one").unwrap();
    poll_until("the new password is used", PATIENCE, async || one(&world.database).await.is_ok()).await;
}

#[tokio::test]
async fn a_wrong_password_is_unavailable_and_names_nothing() {
    let world = World::new().await;
    change(&world, "another").await;
    let problem = map_error(world.database.acquire().await.unwrap_err());
    assert_eq!(problem.kind(), Kind::Unavailable);
    assert!(!problem.message().contains(&world.config.user), "{problem}");
}

#[tokio::test]
async fn files_are_checked_before_anything_is_opened() {
    let world = World::new().await;
    let mut config = world.config.clone();
    config.ca_file = config.password_file.path().to_owned();
    assert!(matches!(database::connect(&config), Err(DatabaseError::CaEmpty { .. })));
    config.ca_file = "/nonexistent/ca.pem".into();
    assert!(matches!(database::connect(&config), Err(DatabaseError::CaUnreadable { .. })));
    fs::remove_file(world.config.password_file.path()).unwrap();
    assert!(matches!(database::connect(&world.config), Err(DatabaseError::Password(_))));
}

/// Changes it in the server and ends the connections that the old one opened.
async fn change(world: &World, password: &str) {
    let user = &world.config.user;
    world.sql(&format!("ALTER ROLE {user} PASSWORD '{password}'")).await;
    world.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'")).await;
}
