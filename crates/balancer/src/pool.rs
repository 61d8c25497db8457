//! Pools of equal replicas, and the choice among them.

mod config;
mod health;
mod peers;
mod replica;
mod sockets;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use topology::BALANCER;
use tower::retry::budget::TpsBudget;

pub use config::{PoolsConfig, ReplicaConfig};
pub use health::{HealthSettings, watch};
pub use peers::{PeerSettings, maintain};
pub use replica::{Lease, Replica, ReplicaStatus};

use self::replica::CONNECTION_FAILURES_MAX;
use crate::metrics::PoolMetrics;

/// The retry budget is about the requests of so long.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries that are allowed in any case, so that a quiet service can retry at all.
const RETRIES_PER_SECOND: u32 = 10;
/// Retries per request beyond that: what keeps a bad minute from becoming a retry storm.
const RETRY_SHARE: f32 = 0.2;
/// As many as the set of replicas that a request has tried can hold.
pub const REPLICAS_MAX: usize = 64;

/// Replicas of one service.
pub struct Pool {
    /// Which service: the name in its certificates, the audience of passports for it, a label of metrics.
    pub name: &'static str,
    /// All of them, whatever their state.
    pub replicas: Vec<Arc<Replica>>,
    /// What may be spent on retries.
    pub retry_budget: TpsBudget,
    /// Its metrics.
    pub metrics: PoolMetrics,
    in_flight_max: usize,
    random: AtomicU64,
}

/// A pool for each service that the map has behind the balancer.
pub struct Pools(Vec<Arc<Pool>>);

/// The replicas that a request was sent to already.
#[derive(Clone, Copy, Debug, Default)]
pub struct TriedReplicas(u64);

/// Why there is no replica for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReplica {
    /// None is healthy.
    Unhealthy,
    /// All that are healthy have as much in flight as they may.
    Saturated,
}

// === impl Pools ===

impl Pools {
    /// Pools of replicas that were never checked.
    pub fn new(config: &PoolsConfig, in_flight_max: usize) -> Self {
        Self(BALANCER.upstreams.iter().map(|name| Pool::new(name, config.replicas(name), in_flight_max)).collect())
    }

    /// The pool of this service.
    pub fn of(&self, service: &str) -> Option<&Arc<Pool>> {
        self.0.iter().find(|pool| pool.name == service)
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<Pool>] {
        &self.0
    }
}

// === impl Pool ===

impl Pool {
    /// A pool of replicas that were never checked.
    pub fn new(name: &'static str, replicas: &[ReplicaConfig], in_flight_max: usize) -> Arc<Self> {
        let replicas = replicas.iter().take(REPLICAS_MAX).enumerate();
        Arc::new(Self {
            name,
            replicas: replicas.map(|(index, config)| Replica::new(name, index, config)).collect(),
            retry_budget: TpsBudget::new(BUDGET_WINDOW, RETRIES_PER_SECOND, RETRY_SHARE),
            metrics: PoolMetrics::new(name),
            in_flight_max,
            random: AtomicU64::new(0),
        })
    }

    /// Two of the healthy replicas at random, and of these the one with fewer requests in flight: the power of two choices.
    /// A replica that the request has tried is the last choice.
    pub fn choose(&self, tried: TriedReplicas) -> Result<Lease, NoReplica> {
        let candidates = self.candidates();
        let chosen = self.better_of_two(candidates & !tried.0).or_else(|| self.better_of_two(candidates));
        let shortage = || if self.healthy_count() > 0 { NoReplica::Saturated } else { NoReplica::Unhealthy };
        chosen.map(Replica::lease).ok_or_else(shortage)
    }

    /// How many healthy replicas there are that the request was not sent to yet.
    pub fn untried_count(&self, tried: TriedReplicas) -> usize {
        self.replicas.iter().filter(|replica| replica.is_available() && !tried.contains(replica)).count()
    }

    /// How many are healthy.
    pub fn healthy_count(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.is_available()).count()
    }

    /// A connection could not be made, or broke under a request that was sent to it at `began`. Several in a row make the
    /// replica unhealthy before a health check does; but not the last healthy one, which only a check takes out.
    pub fn record_connection_failure(&self, replica: &Replica, began: Instant, why: &str) {
        let connection_failures = replica.count_connection_failure(began);
        if connection_failures >= CONNECTION_FAILURES_MAX && replica.is_available() && self.healthy_count() > 1 {
            replica.set_unhealthy(why);
        }
    }

    /// The replicas that may get a request, as bits: the choice is made for every request, without an allocation.
    fn candidates(&self) -> u64 {
        let may = |replica: &&Arc<Replica>| replica.is_available() && replica.in_flight() < self.in_flight_max;
        self.replicas.iter().filter(may).fold(0, |bits, replica| bits | bit(replica))
    }

    fn better_of_two(&self, candidates: u64) -> Option<&Arc<Replica>> {
        let nth = |n| self.replicas.get(nth_bit(candidates, n));
        let count = candidates.count_ones() as usize;
        if count < 2 {
            return nth(0);
        }
        let random = self.next_random();
        let first = below(random, count);
        // Any of the others, each as likely.
        let second = (first + 1 + below(random.rotate_left(32), count - 1)) % count;
        let (first, second) = (nth(first)?, nth(second)?);
        Some(if second.in_flight() < first.in_flight() { second } else { first })
    }

    /// SplitMix64 over a shared counter: even and cheap. It spreads load; nothing secret depends on it.
    fn next_random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

// === impl TriedReplicas ===

impl TriedReplicas {
    /// Adds one.
    pub fn insert(&mut self, replica: &Replica) {
        self.0 |= bit(replica);
    }

    fn contains(self, replica: &Replica) -> bool {
        self.0 & bit(replica) != 0
    }
}

fn bit(replica: &Replica) -> u64 {
    1 << (replica.index % REPLICAS_MAX)
}

/// The index of the n-th bit that is set, counted from 0; past all replicas if there is none.
fn nth_bit(bits: u64, n: usize) -> usize {
    (0..n).fold(bits, |rest, _| rest & rest.wrapping_sub(1)).trailing_zeros() as usize
}

/// The low 32 bits scaled to `0..count`.
fn below(random: u64, count: usize) -> usize {
    let scaled = (random & u64::from(u32::MAX)) * (count as u64);
    usize::try_from(scaled >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tower::retry::budget::Budget;

    use super::*;
    use crate::replica_state::ReplicaState;

    fn pool(count: usize, in_flight_max: usize) -> Arc<Pool> {
        let config = |n: usize| ReplicaConfig { name: format!("serving-{n}"), address: format!("127.0.0.1:{n}") };
        let replicas: Vec<ReplicaConfig> = (1..=count).map(config).collect();
        let pool = Pool::new(topology::name::SERVING, &replicas, in_flight_max);
        pool.replicas.iter().for_each(|replica| replica.check_passed(2));
        pool
    }

    /// Equal replicas get equal shares, and one with more in flight than the rest gets nothing but ties.
    #[test]
    fn load_goes_to_the_least_loaded() {
        let pool = pool(3, 1000);
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[pool.choose(TriedReplicas::default()).ok().unwrap().replica().index] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        let _busy: Vec<_> = (0..10).map(|_| pool.replicas[1].lease()).collect();
        for _ in 0..1000 {
            assert_ne!(pool.choose(TriedReplicas::default()).ok().unwrap().replica().index, 1);
        }
    }

    #[test]
    fn a_tried_replica_is_the_last_choice() {
        let pool = pool(2, 1000);
        let mut tried = TriedReplicas::default();
        tried.insert(&pool.replicas[0]);
        for _ in 0..100 {
            assert_eq!(pool.choose(tried).ok().unwrap().replica().index, 1);
        }
        pool.replicas[1].set_unhealthy("gone");
        assert_eq!(pool.choose(tried).ok().unwrap().replica().index, 0);
    }

    #[test]
    fn saturated_and_unhealthy_are_told_apart() {
        let pool = pool(1, 2);
        let leases = [pool.choose(TriedReplicas::default()).ok(), pool.choose(TriedReplicas::default()).ok()];
        assert_eq!(pool.choose(TriedReplicas::default()).err(), Some(NoReplica::Saturated));
        drop(leases);
        pool.replicas[0].set_unhealthy("gone");
        assert_eq!(pool.choose(TriedReplicas::default()).err(), Some(NoReplica::Unhealthy));
    }

    #[test]
    fn two_connection_failures_in_a_row_take_out_all_but_the_last_replica() {
        let pool = pool(2, 1000);
        let [first, last] = &pool.replicas[..] else { panic!("two replicas") };
        pool.record_connection_failure(first, Instant::now(), "reset");
        first.record_response();
        pool.record_connection_failure(first, Instant::now(), "reset");
        assert!(first.is_available());
        pool.record_connection_failure(first, Instant::now(), "refused");
        assert_eq!((first.status().state, first.status().why.as_str()), (ReplicaState::Unhealthy, "refused"));
        for _ in 0..10 {
            pool.record_connection_failure(last, Instant::now(), "reset");
        }
        assert!(last.is_available());
    }

    fn withdraw_all(pool: &Pool) -> usize {
        std::iter::from_fn(|| pool.retry_budget.withdraw().then_some(())).take(100_000).count()
    }

    /// Without traffic only the free retries of the window are there; with traffic, a fifth of it.
    #[test]
    fn retries_stay_a_fifth_of_requests() {
        let pool = pool(1, 1);
        assert_eq!(withdraw_all(&pool), 100);
        (0..1000).for_each(|_| pool.retry_budget.deposit());
        assert_eq!(withdraw_all(&pool), 200);
        (0..10).for_each(|_| pool.retry_budget.deposit());
        assert_eq!(withdraw_all(&pool), 2);
    }

    #[tokio::test]
    async fn free_retries_come_back_with_time() {
        let pool = pool(1, 1);
        assert_eq!(withdraw_all(&pool), 100);
        let mut again = 0;
        testkit::poll_until("as many as before", 2 * BUDGET_WINDOW, async || {
            again += withdraw_all(&pool);
            again >= 100
        })
        .await;
        assert_eq!(again, 100);
    }

    proptest! {
        /// Whatever is up, the choice is among it, and the counts come back to zero.
        #[test]
        fn only_healthy_ones_are_chosen(up in proptest::collection::vec(any::<bool>(), 1..REPLICAS_MAX + 1), requests in 1usize..200) {
            let pool = pool(up.len(), 1000);
            for (replica, is_up) in pool.replicas.iter().zip(&up) {
                if !is_up { replica.set_unhealthy("test"); }
            }
            let leases: Vec<Lease> = (0..requests).filter_map(|_| pool.choose(TriedReplicas::default()).ok()).collect();
            prop_assert_eq!(leases.is_empty(), !up.contains(&true));
            prop_assert!(leases.iter().all(|lease| up[lease.replica().index]));
            drop(leases);
            prop_assert!(pool.replicas.iter().all(|replica| replica.in_flight() == 0));
        }
    }
}
