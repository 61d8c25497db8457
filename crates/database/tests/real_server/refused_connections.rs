//! Servers and clients that are refused.

use std::fs;

use database::{DatabaseConfig, map_error};
use problem::Kind;
use testkit::ca::{Ca, Leaf};
use testkit::poll_until;

use crate::standby::Standby;
use crate::world::{PATIENCE, World, one};

async fn is_refused(config: &DatabaseConfig) -> bool {
    let database = database::connect(config).unwrap();
    let problem = map_error(one(&database).await.unwrap_err());
    problem.kind() == Kind::Unavailable
}

#[tokio::test]
async fn a_server_of_a_foreign_ca_is_refused() {
    let mut world = World::new().await;
    let foreign = world.config.password_file.path().with_file_name("foreign.pem");
    fs::write(&foreign, Ca::foreign().pem()).unwrap();
    world.config.ca_file = foreign;
    assert!(is_refused(&world.config).await);
}

/// The password alone does not open the database.
#[tokio::test]
async fn a_client_of_a_foreign_ca_is_refused() {
    let mut world = World::new().await;
    let foreign = world.config.password_file.path().with_file_name("foreign");
    Ca::foreign().issue("gateway", "gateway-1", &foreign);
    world.config.certificate_file = foreign.join("certificate.pem");
    world.config.key_file = foreign.join("key.pem");
    assert!(is_refused(&world.config).await);
}

/// The server gets a certificate of the same authority for another name than the one that is dialled.
#[tokio::test]
async fn a_server_under_a_name_that_its_certificate_lacks_is_refused() {
    let mut world = World::with_own_server().await;
    assert_eq!(world.config.host, "localhost");
    let identity = world.config.ca_file.parent().unwrap();
    let leaf = Leaf::of("postgres", "postgres-1").dns_names(&["postgres.rampart.internal"]);
    Ca::new().issue_leaf(&leaf, identity);
    world.postgres.cluster().reload_certificates().await.unwrap();
    assert!(is_refused(&world.config).await);
    world.config.host = "127.0.0.1".into();
    assert_eq!(one(&database::connect(&world.config).unwrap()).await.unwrap(), 1, "which is in the certificate");
}

#[tokio::test]
async fn the_connection_is_tls_1_3_by_scram() {
    let world = World::new().await;
    let tls: (String, bool) = sqlx::query_as("SELECT version, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(&world.database.pool())
        .await
        .unwrap();
    assert_eq!(tls, ("TLSv1.3".to_owned(), true));
    let stored = world
        .sql(&format!("SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = '{}'", world.config.user))
        .await;
    assert_eq!(stored, "SCRAM-SHA-256$");
}

/// Its connections are refused although it answers; promoted, the same pool takes it.
#[tokio::test]
async fn a_standby_is_refused() {
    let world = World::with_own_server().await;
    assert_eq!(one(&world.database).await.unwrap(), 1);
    let _standby = Standby::restart(&world.postgres).await;
    assert_eq!(world.sql("SELECT pg_is_in_recovery()").await, "t");

    let problem = map_error(one(&world.database).await.unwrap_err());
    assert_eq!(problem.kind(), Kind::Unavailable);
    world.sql("SELECT pg_promote()").await;
    poll_until("the promoted server is taken", PATIENCE, async || one(&world.database).await.is_ok()).await;
}
