//! Every wait has a bound.

use std::fs;
use std::time::{Duration, Instant};

use database::map_error;
use problem::Kind;
use rustix::process::{Pid, Signal, kill_process};
use testkit::poll_until;

use crate::world::{PATIENCE, World, one};

/// A frozen server accepts connections and answers nothing: the kernel does the accepting. Every call must end within its
/// bound, and the pool must work again as soon as the server does, with all its permits.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_costs_a_bounded_wait_and_no_permit() {
    let world = World::with_own_server().await;
    assert_eq!(one(&world.database).await.unwrap(), 1);

    let frozen = Frozen::freeze(world.postgres.cluster().pid());
    for round in 0..8 {
        let started = Instant::now();
        let problem = map_error(one(&world.database).await.unwrap_err());
        assert_eq!(problem.kind(), Kind::Unavailable, "round {round}");
        assert!(started.elapsed() < Duration::from_millis(1_500), "round {round} took {:?}", started.elapsed());
    }
    drop(frozen);

    poll_until("the pool works again", PATIENCE, async || one(&world.database).await.is_ok()).await;
    let (first, second) = tokio::join!(world.database.acquire(), world.database.acquire());
    assert!(first.is_ok() && second.is_ok(), "both connections of the pool can be had again");
}

/// The same with a transaction that was under way: what was abandoned is not there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_transaction_is_rolled_back() {
    let world = World::with_own_server().await;
    world.sql("CREATE TABLE public.item (id int); GRANT ALL ON public.item TO public; GRANT USAGE ON SCHEMA public TO public").await;
    let server = world.postgres.cluster().pid();

    let result = world
        .database
        .bounded("insert", async {
            let mut transaction = world.database.begin().await?;
            sqlx::query("INSERT INTO public.item VALUES (1)").execute(&mut *transaction).await?;
            let _frozen = Frozen::freeze(server);
            sqlx::query("INSERT INTO public.item VALUES (2)").execute(&mut *transaction).await?;
            transaction.commit().await
        })
        .await;
    assert_eq!(map_error(result.unwrap_err()).kind(), Kind::Unavailable);

    poll_until("the server answers", PATIENCE, async || one(&world.database).await.is_ok()).await;
    poll_until("the transaction is gone", PATIENCE, async || {
        world.sql("SELECT count(*) FROM pg_locks WHERE relation = 'public.item'::regclass").await == "0"
    })
    .await;
    assert_eq!(world.sql("SELECT count(*) FROM public.item").await, "0");
}

#[tokio::test]
async fn the_server_ends_a_long_statement_itself() {
    let world = World::new().await;
    // Outside of `bounded`, so that only the server can end it.
    let error = sqlx::query("SELECT pg_sleep(60)").execute(&world.database.pool()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57014");
    assert_eq!(map_error(error).kind(), Kind::Unavailable);
}

#[tokio::test]
async fn waiting_for_a_connection_is_bounded() {
    let world = World::new().await;
    let _both = tokio::try_join!(world.database.acquire(), world.database.acquire()).unwrap();
    let started = Instant::now();
    assert!(matches!(world.database.acquire().await, Err(sqlx::Error::PoolTimedOut)));
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
}

/// A restarted server leaves dead connections in the pool; none may be handed out.
#[tokio::test]
async fn connections_that_died_while_idle_are_not_handed_out() {
    let world = World::new().await;
    assert_eq!(one(&world.database).await.unwrap(), 1);
    let own = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", world.config.user);
    world.sql(&own).await;
    assert_eq!(one(&world.database).await.unwrap(), 1);
}

/// Stops the postmaster and its children, and lets them go on when dropped.
pub(crate) struct Frozen(Vec<Pid>);

// === impl Frozen ===

impl Frozen {
    pub(crate) fn freeze(postmaster: u32) -> Self {
        // The parent first, so that no child is born in between.
        let postmaster = pid(postmaster);
        let mut stopped = vec![postmaster];
        kill_process(postmaster, Signal::STOP).unwrap();
        for child in children(postmaster) {
            // A child may have ended by itself.
            if kill_process(child, Signal::STOP).is_ok() {
                stopped.push(child);
            }
        }
        Self(stopped)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            let _ended = kill_process(*process, Signal::CONT);
        }
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|process: &u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_ascii_whitespace().nth(1) == Some(&parent))
        })
        .map(pid)
        .collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().unwrap()).unwrap()
}
