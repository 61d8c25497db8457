//! Two servers, of which one is the primary.

use std::time::{Duration, Instant};

use database::Database;
use rustix::process::{Pid, Signal, kill_process};
use testkit::ca::Ca;
use testkit::poll_until;

use crate::standby::Standby;
use crate::timeouts::Frozen;
use crate::world::{PATIENCE, World};

/// A frozen server is abandoned after a second, and another primary is looked for every quarter of a second.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

struct Pair {
    first: World,
    second: World,
    /// Of the second server.
    _standby: Standby,
    database: Database,
}

// === impl Pair ===

impl Pair {
    /// The first is the primary, the second a standby that knows the same role. They share no data: which of them was asked
    /// is what these tests are about.
    async fn new() -> Self {
        let (first, second) = (World::with_own_server().await, World::with_own_server().await);
        let ca = Ca::new();
        for world in [&first, &second] {
            ca.issue("postgres", "postgres-1", world.config.ca_file.parent().unwrap());
            world.postgres.cluster().reload_certificates().await.unwrap();
        }
        let password = std::fs::read_to_string(first.config.password_file.path()).unwrap();
        second.sql(&format!("ALTER ROLE {} PASSWORD '{password}'", first.config.user)).await;
        let standby = Standby::restart(&second.postgres).await;
        let mut config = first.config.clone();
        config.other_hosts = vec![format!("localhost:{}", second.config.port)];
        let database = database::connect(&config).unwrap();
        Self { first, second, _standby: standby, database }
    }

    async fn promote(&self) {
        self.second.sql("SELECT pg_promote()").await;
    }

    /// The port of the server that gave out a transaction's number, which only a primary does.
    async fn asked(&self) -> Result<u16, sqlx::Error> {
        let query = "SELECT current_setting('port')::int FROM (SELECT pg_current_xact_id()) AS written";
        let work = async {
            let mut connection = self.database.acquire().await?;
            sqlx::query_scalar::<_, i32>(query).fetch_one(&mut *connection).await
        };
        self.database.bounded("asked", work).await.map(|port| u16::try_from(port).unwrap())
    }

    async fn wait_for_second(&self) -> Duration {
        let started = Instant::now();
        poll_until("the second is asked", PATIENCE, async || self.asked().await.ok() == Some(self.second.config.port))
            .await;
        started.elapsed()
    }
}

/// A lost primary is answered by errors until another one is promoted, and from then on by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_follows_the_primary() {
    let pair = Pair::new().await;
    for _ in 0..20 {
        assert_eq!(pair.asked().await.unwrap(), pair.first.config.port);
    }
    let first = Pid::from_raw(pair.first.postgres.cluster().pid().try_into().unwrap()).unwrap();
    kill_process(first, Signal::QUIT).unwrap();
    poll_until("the first is gone", PATIENCE, async || pair.asked().await.is_err()).await;
    assert!(pair.asked().await.is_err(), "a standby takes no writes");
    pair.promote().await;
    let took = pair.wait_for_second().await;
    assert!(took <= FOUND_WITHIN, "{took:?}");
}

/// A frozen primary keeps its connections. When it thaws and still takes itself for the primary, it is not contacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_does_not_return_to_a_frozen_primary() {
    let pair = Pair::new().await;
    assert_eq!(pair.asked().await.unwrap(), pair.first.config.port);
    let frozen = Frozen::freeze(pair.first.postgres.cluster().pid());
    pair.promote().await;
    let took = pair.wait_for_second().await;
    assert!(took <= FOUND_WITHIN, "{took:?}");
    drop(frozen);
    pair.first.sql("SELECT 1").await;
    for _ in 0..20 {
        assert_eq!(pair.asked().await.unwrap(), pair.second.config.port);
    }
}

/// A service that starts does not begin with the first of the list, but with the primary; also its migrations do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_may_be_any_of_the_list() {
    let pair = Pair::new().await;
    let mut config = pair.first.config.clone();
    config.port = pair.second.config.port;
    config.other_hosts = vec![format!("localhost:{}", pair.first.config.port)];
    let database = database::connect(&config).unwrap();
    let migrator = sqlx::migrate::Migrator::with_migrations(Vec::new());
    database.migrate(&migrator, "shop").await.unwrap();
    let connection = database.acquire().await;
    assert!(connection.is_ok(), "{connection:?}");
}
