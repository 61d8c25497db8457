//! What the tracker knows how to do, for both of its faces.

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
    store::{Recorded, Source, Store, StoreError},
    summary::{HourFigures, Ledger, Summary, Targets, Window, hour_of},
};

/// A computed summary is good for this long, unless a report comes: anybody may ask, and asking must stay cheap.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// So is a failure, for a moment: a crowd must not queue for a database that is away.
const FAILURE_REMEMBERED_FOR: Duration = Duration::from_secs(1);
/// How long anybody who asks may wait for the figures.
const ASKED_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long computing them for the metrics may take: after a long pause there are many hours to sum up.
const KEPT_WAIT_MAX: Duration = Duration::from_secs(60);
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
    memories: BTreeMap<String, Memory>,
    open: OnceLock<()>,
}

/// The last answer about one service.
#[derive(Default)]
struct Memory {
    /// Rises with every report of the service.
    generation: AtomicU64,
    /// Held while computing, so that a crowd costs one computation.
    remembered: Mutex<Option<Remembered>>,
}

struct Remembered {
    generation: u64,
    at: Instant,
    answer: Result<Arc<Answer>, Problem>,
}

/// A summary and when it was computed.
#[derive(Debug)]
pub struct Answer {
    /// The figures.
    pub summary: Summary,
    /// When.
    pub computed_at: OffsetDateTime,
    /// Its last hours.
    pub hours: Vec<HourFigures>,
}

/// What those see who may see details.
#[derive(Debug)]
pub struct Detail {
    /// The last minutes, all sources together.
    pub minutes: Vec<Minute>,
    /// Who reported in the last hours.
    pub sources: Vec<Source>,
}

// === impl App ===

impl App {
    /// A tracker for these services.
    pub fn new(store: Store, guard: Arc<Guard>, clock: Clock, services: Vec<String>, targets: Targets) -> Self {
        let memories = services.iter().map(|service| (service.clone(), Memory::default())).collect();
        Self(Arc::new(Inner { store, guard, clock, targets, services, memories, open: OnceLock::new() }))
    }

    /// Says that the ledger's tables are there; until then nothing is taken and nothing answered.
    pub fn open(&self) {
        let _again = self.0.open.set(());
    }

    fn check_open(&self) -> Result<(), Problem> {
        let late = || Problem::unavailable("the ledger is not open yet: its tables are being made");
        self.0.open.get().copied().ok_or_else(late)
    }

    /// Decides who may see details.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Takes a report of minutes from the replica of this name.
    pub async fn report(&self, request: ReportMinutesRequest, instance: &str) -> Result<usize, Problem> {
        let count = request.minutes.len();
        if request.source != instance {
            metrics::count_refused(count);
            let detail = format!("a replica reports for itself: the certificate says {instance:?}");
            return Err(Problem::new(Kind::PermissionDenied, detail).field("source"));
        }
        self.check_open()?;
        let now = self.now();
        let report = Report::check(request, &self.0.services, now).map_err(|error| {
            metrics::count_refused(count);
            Problem::new(Kind::InvalidArgument, error.fault.to_string()).field(error.field)
        })?;
        match self.0.store.record(&report, now).await {
            Ok(recorded) => {
                self.note(&report, &recorded);
                Ok(count)
            }
            Err(error) => {
                if matches!(error, StoreError::Database(_)) {
                    metrics::count_failed(count);
                }
                Err(refuse(error))
            }
        }
    }

    /// The figures of a service, at most seconds old, and in seconds.
    pub async fn current(&self, service: &str) -> Result<Arc<Answer>, Problem> {
        self.figures(service, ASKED_WAIT_MAX).await
    }

    /// Computes the figures of every service for the metrics, unless somebody has just asked for them.
    pub async fn keep_figures(&self) {
        for service in &self.0.services {
            // A failure shows in the metrics and in the log; the next round may do better.
            let _shown = self.figures(service, KEPT_WAIT_MAX).await;
        }
    }

    async fn figures(&self, service: &str, wait_max: Duration) -> Result<Arc<Answer>, Problem> {
        self.check_open()?;
        let deadline = Instant::now() + wait_max;
        let late = |_| Problem::unavailable("the figures cannot be computed in time now");
        let memory = self.0.memories.get(service).ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("no SLA is kept for this service; there is: {}", self.0.services.join(", ")),
            )
        })?;
        let mut remembered = timeout_at(deadline, memory.remembered.lock()).await.map_err(late)?;
        // Read before computing: a report that comes meanwhile makes this answer an old one.
        let generation = memory.generation.load(Ordering::Acquire);
        if let Some(last) = remembered.as_ref().filter(|last| last.is_good(generation)) {
            return last.answer.clone();
        }
        let was_failing = remembered.as_ref().is_some_and(|last| last.answer.is_err());
        let answer = match timeout_at(deadline, self.compute(service)).await {
            Ok(computed) => computed.map(Arc::new).map_err(refuse),
            Err(elapsed) => Err(late(elapsed)),
        };
        show(service, was_failing, &answer);
        *remembered = Some(Remembered { generation, at: Instant::now(), answer: answer.clone() });
        answer
    }

    /// What is behind the figures.
    pub async fn detail(&self, service: &str) -> Result<Detail, Problem> {
        let now = self.now();
        let read = async {
            let minutes = self.0.store.minutes(service, now - DETAIL_MINUTES).await?;
            let sources = self.0.store.sources(service, now - DETAIL_HOURS).await?;
            Ok(Detail { minutes, sources })
        };
        read.await.map_err(refuse)
    }

    async fn compute(&self, service: &str) -> Result<Answer, StoreError> {
        let now = self.now();
        let window = self.0.store.first_minute(service).await?.map(|first| Window::rolling(first, now));
        let ledger = match window {
            Some(window) => self.0.store.ledger(service, window.from, now).await?,
            None => Ledger::empty(),
        };
        let summary = Summary::compute(&ledger, window, self.0.targets);
        let shown_from = hour_of(now - DETAIL_HOURS);
        let hours = ledger.hours.into_iter().filter(|hour| hour.start >= shown_from).collect();
        Ok(Answer { summary, computed_at: now, hours })
    }

    fn note(&self, report: &Report, recorded: &Recorded) {
        metrics::count_recorded(recorded);
        for (service, minute) in &recorded.contradictions {
            tracing::warn!(
                ledger = service, %minute, source = report.source, boot_id = %report.boot_id,
                "a minute contradicts what its source reported before, the earlier report stays: a fault in the source"
            );
        }
        for minute in &report.minutes {
            if let Some(memory) = self.0.memories.get(&minute.service) {
                memory.generation.fetch_add(1, Ordering::Release);
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

// === impl Remembered ===

impl Remembered {
    fn is_good(&self, generation: u64) -> bool {
        match &self.answer {
            Ok(_) => self.generation == generation && self.at.elapsed() < REMEMBERED_FOR,
            Err(_) => self.at.elapsed() < FAILURE_REMEMBERED_FOR,
        }
    }
}

/// Shows figures, or that there are none, in the metrics; a change between the two in the log, once.
fn show(service: &str, was_failing: bool, answer: &Result<Arc<Answer>, Problem>) {
    match answer {
        Ok(answer) => {
            metrics::show(service, &answer.summary);
            if was_failing {
                tracing::info!(ledger = service, "the figures can be computed again");
            }
        }
        Err(problem) => {
            metrics::show_unreadable(service);
            if !was_failing {
                tracing::warn!(ledger = service, error = %Chain(problem), "the figures cannot be computed, and are unknown");
            }
        }
    }
}

/// The problem that a failed store is to the caller; counts what it says about the ledger.
fn refuse(error: StoreError) -> Problem {
    match error {
        StoreError::Damaged { .. } => {
            metrics::count_damaged_row();
            Problem::internal(error)
        }
        StoreError::Database(error) => database::map_error(error),
    }
}
