//! Each service brings its own schema to its own state.

use std::borrow::Cow;
use std::fs;
use std::pin::pin;
use std::time::Duration;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use tokio::time::timeout;

use crate::world::World;

fn migrator(statements: &[&'static str]) -> Migrator {
    let migrations = (1..).zip(statements).map(|(version, sql)| {
        Migration::new(version, Cow::Borrowed("test"), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

const FIRST: &str = "CREATE TABLE shop.item (id int PRIMARY KEY)";
const SECOND: &str = "ALTER TABLE shop.item ADD COLUMN name text";

#[tokio::test]
async fn the_table_of_migrations_lies_in_the_schema() {
    let world = World::new().await;
    world.database.migrate(&migrator(&[FIRST]), "shop").await.unwrap();
    world.database.migrate(&migrator(&[FIRST, SECOND]), "shop").await.unwrap();
    let tables = "SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY tablename) FROM pg_tables \
                  WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    assert_eq!(world.sql(tables).await, "shop._sqlx_migrations shop.item");
}

/// Yesterday's binary on today's schema.
#[tokio::test]
async fn a_migration_that_we_do_not_know_is_left_alone() {
    let world = World::new().await;
    world.database.migrate(&migrator(&[FIRST, SECOND]), "shop").await.unwrap();
    world.database.migrate(&migrator(&[FIRST]), "shop").await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_changed_is_refused() {
    let world = World::new().await;
    world.database.migrate(&migrator(&[FIRST]), "shop").await.unwrap();
    assert!(world.database.migrate(&migrator(&[SECOND]), "shop").await.is_err());
}

/// Two replicas start together; both end with the schema, and each statement ran once.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_migrate_one_after_the_other() {
    let world = World::new().await;
    let all = migrator(&[FIRST, SECOND, "INSERT INTO shop.item VALUES (1)"]);
    let (one, other) = tokio::join!(world.database.migrate(&all, "shop"), world.database.migrate(&all, "shop"));
    one.unwrap();
    other.unwrap();
    assert_eq!(world.sql("SELECT count(*) FROM shop.item").await, "1");
}

/// A statement of a migration may take longer than a request's: here 1 s is the bound of a request.
#[tokio::test]
async fn a_migration_has_time() {
    let world = World::new().await;
    world.database.migrate(&migrator(&["SELECT pg_sleep(1.5)"]), "shop").await.unwrap();
}

/// A server that refuses the password will take another one: the migration is tried until then.
#[tokio::test]
async fn a_migration_is_tried_until_the_password_is_right() {
    let world = World::new().await;
    world.sql(&format!("ALTER ROLE {} PASSWORD 'the new one'", world.config.user)).await;
    let first = migrator(&[FIRST]);
    let mut migrating = pin!(world.database.migrate(&first, "shop"));
    assert!(timeout(Duration::from_secs(2), &mut migrating).await.is_err(), "it goes on");
    fs::write(world.config.password_file.path(), "the new one").unwrap();
    migrating.await.unwrap();
}
