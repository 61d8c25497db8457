//! The tracker behind gRPC and HTTP: takes reports, and computes and caches figures.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use authz::{Clock, Guard};
use problem::{Chain, Kind, Problem};
use proto::sla::v1::ReportMinutesRequest;
use time::OffsetDateTime;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use crate::{
    metrics,
    minute::{Minute, Report},
    store::{RecordResult, SourceRun, Store, StoreError},
    summary::{Summary, Targets},
    totals::{HourFigures, WindowTotals, hour_of},
    window::Window,
};

/// How long computed figures are cached, unless a report comes: the route is public, so a request must be cheap.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// How long a failure is cached: many requests must not queue for a database that does not answer.
const FAILURE_CACHE_TTL: Duration = Duration::from_secs(1);
/// How long a request may wait for the figures.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long computing them for the metrics may take: after a long pause many hours have to be summed up.
const METRICS_WAIT_MAX: Duration = Duration::from_secs(60);
/// Hours shown in detail.
const DETAIL_HOURS: time::Duration = time::Duration::hours(48);
/// Minutes shown in detail.
const DETAIL_MINUTES: time::Duration = time::Duration::hours(1);

/// The tracker.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    store: Store,
    guard: Arc<Guard>,
    clock: Clock,
    targets: Targets,
    services: Vec<String>,
    caches: BTreeMap<String, FiguresCache>,
    ready: OnceLock<()>,
}

/// The last figures of one service.
#[derive(Default)]
struct FiguresCache {
    /// Rises with every report of the service.
    generation: AtomicU64,
    /// Locked while computing, so that many requests cost one computation.
    last: Mutex<Option<CachedFigures>>,
}

struct CachedFigures {
    generation: u64,
    at: Instant,
    figures: Result<Arc<Figures>, Problem>,
}

/// A summary, its last hours, and when it was computed.
#[derive(Debug)]
pub struct Figures {
    /// The figures.
    pub summary: Summary,
    /// When.
    pub computed_at: OffsetDateTime,
    /// Its last hours.
    pub hours: Vec<HourFigures>,
}

/// What is behind the figures, for callers with `read-sla`.
#[derive(Debug)]
pub struct Detail {
    /// The last minutes, all sources together.
    pub minutes: Vec<Minute>,
    /// The sources of the last hours.
    pub sources: Vec<SourceRun>,
}

// === impl App ===

impl App {
    /// A tracker for these services.
    pub fn new(store: Store, guard: Arc<Guard>, clock: Clock, services: Vec<String>, targets: Targets) -> Self {
        let caches = services.iter().map(|service| (service.clone(), FiguresCache::default())).collect();
        Self(Arc::new(Inner { store, guard, clock, targets, services, caches, ready: OnceLock::new() }))
    }

    /// Marks the ledger's tables as migrated; until then reports and requests get 503.
    pub fn set_ready(&self) {
        let _again = self.0.ready.set(());
    }

    fn check_ready(&self) -> Result<(), Problem> {
        let late = || Problem::unavailable("the ledger is not open yet: its tables are being made");
        self.0.ready.get().copied().ok_or_else(late)
    }

    /// Decides which callers may see details.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Takes a report of minutes from the replica `instance`.
    pub async fn report(&self, request: ReportMinutesRequest, instance: &str) -> Result<usize, Problem> {
        let count = request.minutes.len();
        if request.source != instance {
            metrics::count_refused(count);
            let detail = format!("a replica reports for itself: the certificate says {instance:?}");
            return Err(Problem::new(Kind::PermissionDenied, detail).field("source"));
        }
        self.check_ready()?;
        let now = self.now();
        let report = Report::check(request, &self.0.services, now).map_err(|error| {
            metrics::count_refused(count);
            Problem::new(Kind::InvalidArgument, error.fault.to_string()).field(error.field)
        })?;
        match self.0.store.record(&report, now).await {
            Ok(recorded) => {
                self.log_and_count(&report, &recorded);
                Ok(count)
            }
            Err(error) => {
                if matches!(error, StoreError::Database(_)) {
                    metrics::count_failed(count);
                }
                Err(problem_of(error))
            }
        }
    }

    /// The figures of a service, a few seconds old at most.
    pub async fn current(&self, service: &str) -> Result<Arc<Figures>, Problem> {
        self.figures(service, REQUEST_WAIT_MAX).await
    }

    /// Computes the figures of every service for the metrics, unless they are cached.
    pub async fn refresh_metrics(&self) {
        for service in &self.0.services {
            // A failure is in the metrics and in the log; the next round tries again.
            let _exported = self.figures(service, METRICS_WAIT_MAX).await;
        }
    }

    async fn figures(&self, service: &str, wait_max: Duration) -> Result<Arc<Figures>, Problem> {
        self.check_ready()?;
        let deadline = Instant::now() + wait_max;
        let late = |_| Problem::unavailable("the figures cannot be computed in time now");
        let cache = self.0.caches.get(service).ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("no SLA is kept for this service; there is: {}", self.0.services.join(", ")),
            )
        })?;
        let mut cached = timeout_at(deadline, cache.last.lock()).await.map_err(late)?;
        // Read before computing: a report that comes meanwhile makes these figures outdated.
        let generation = cache.generation.load(Ordering::Acquire);
        if let Some(last) = cached.as_ref().filter(|last| last.is_current(generation)) {
            return last.figures.clone();
        }
        let was_failing = cached.as_ref().is_some_and(|last| last.figures.is_err());
        let figures = match timeout_at(deadline, self.compute(service)).await {
            Ok(computed) => computed.map(Arc::new).map_err(problem_of),
            Err(elapsed) => Err(late(elapsed)),
        };
        export(service, was_failing, &figures);
        *cached = Some(CachedFigures { generation, at: Instant::now(), figures: figures.clone() });
        figures
    }

    /// What is behind the figures.
    pub async fn detail(&self, service: &str) -> Result<Detail, Problem> {
        let now = self.now();
        let read = async {
            let minutes = self.0.store.minutes(service, now - DETAIL_MINUTES).await?;
            let sources = self.0.store.sources(service, now - DETAIL_HOURS).await?;
            Ok(Detail { minutes, sources })
        };
        read.await.map_err(problem_of)
    }

    async fn compute(&self, service: &str) -> Result<Figures, StoreError> {
        let now = self.now();
        let window = self.0.store.first_minute(service).await?.map(|first| Window::rolling(first, now));
        let ledger = match window {
            Some(window) => self.0.store.ledger(service, window.from, now).await?,
            None => WindowTotals::empty(),
        };
        let summary = Summary::compute(&ledger, window, self.0.targets);
        let shown_from = hour_of(now - DETAIL_HOURS);
        let hours = ledger.hours.into_iter().filter(|hour| hour.start >= shown_from).collect();
        Ok(Figures { summary, computed_at: now, hours })
    }

    fn log_and_count(&self, report: &Report, recorded: &RecordResult) {
        metrics::count_recorded(recorded);
        for (service, minute) in &recorded.contradictions {
            tracing::warn!(
                ledger = service, %minute, source = report.source, boot_id = %report.boot_id,
                "a minute contradicts what its source reported before, the earlier report stays: a fault in the source"
            );
        }
        for minute in &report.minutes {
            if let Some(cache) = self.0.caches.get(&minute.service) {
                cache.generation.fetch_add(1, Ordering::Release);
            }
        }
        tracing::debug!(
            source = report.source, boot_id = %report.boot_id, changed = recorded.changed, known = recorded.known,
            "minutes reported"
        );
    }

    fn now(&self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0.clock.now()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

// === impl CachedFigures ===

impl CachedFigures {
    fn is_current(&self, generation: u64) -> bool {
        match &self.figures {
            Ok(_) => self.generation == generation && self.at.elapsed() < CACHE_TTL,
            Err(_) => self.at.elapsed() < FAILURE_CACHE_TTL,
        }
    }
}

/// Exports figures, or that there are none, as metrics; logs a change between the two once.
fn export(service: &str, was_failing: bool, figures: &Result<Arc<Figures>, Problem>) {
    match figures {
        Ok(figures) => {
            metrics::export(service, &figures.summary);
            if was_failing {
                tracing::info!(ledger = service, "the figures can be computed again");
            }
        }
        Err(problem) => {
            metrics::export_unreadable(service);
            if !was_failing {
                tracing::warn!(ledger = service, error = %Chain(problem), "the figures cannot be computed; their metrics are NaN until they can");
            }
        }
    }
}

/// The problem that the caller gets for an error of the store; counts damaged rows.
fn problem_of(error: StoreError) -> Problem {
    match error {
        StoreError::Damaged { .. } => {
            metrics::count_damaged_row();
            Problem::internal(error)
        }
        StoreError::Database(error) => database::map_error(error),
    }
}
