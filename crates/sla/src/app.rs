//! What the tracker knows how to do, for both of its faces.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use authz::{Clock, Guard};
use problem::{Kind, Problem};
use proto::sla::v1::ReportMinutesRequest;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::{
    metrics,
    minute::{Minute, Report},
    store::{Recorded, Source, Store, StoreError},
    summary::{HourFigures, Ledger, Summary, Targets, Window, hour_of},
};

/// A computed summary is good for this long, unless a report comes: anybody may ask, and asking must stay cheap.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
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
    answer: Arc<Answer>,
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
        Self(Arc::new(Inner { store, guard, clock, targets, services, memories }))
    }

    /// Decides who may see details.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// The services that have a ledger.
    pub fn services(&self) -> &[String] {
        &self.0.services
    }

    /// Takes a report of minutes from the replica of this name.
    pub async fn report(&self, request: ReportMinutesRequest, instance: &str) -> Result<usize, Problem> {
        let count = request.minutes.len();
        if request.source != instance {
            metrics::count_refused(count);
            let detail = format!("a replica reports for itself: the certificate says {instance:?}");
            return Err(Problem::new(Kind::PermissionDenied, detail).field("source"));
        }
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
            Err(error) => Err(refuse(error, count)),
        }
    }

    /// The figures of a service, at most seconds old.
    pub async fn current(&self, service: &str) -> Result<Arc<Answer>, Problem> {
        let memory = self.0.memories.get(service).ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("no SLA is kept for this service; there is: {}", self.0.services.join(", ")),
            )
        })?;
        let mut remembered = memory.remembered.lock().await;
        // Read before computing: a report that comes meanwhile makes this answer an old one.
        let generation = memory.generation.load(Ordering::Acquire);
        if let Some(last) = remembered.as_ref()
            && last.generation == generation
            && last.at.elapsed() < REMEMBERED_FOR
        {
            return Ok(Arc::clone(&last.answer));
        }
        let answer = Arc::new(self.compute(service).await.map_err(|error| refuse(error, 0))?);
        *remembered = Some(Remembered { generation, at: Instant::now(), answer: Arc::clone(&answer) });
        Ok(answer)
    }

    /// What is behind the figures.
    pub async fn detail(&self, service: &str) -> Result<Detail, Problem> {
        let now = self.now();
        let read = async {
            let minutes = self.0.store.minutes(service, now - DETAIL_MINUTES).await?;
            let sources = self.0.store.sources(service, now - DETAIL_HOURS).await?;
            Ok(Detail { minutes, sources })
        };
        read.await.map_err(|error| refuse(error, 0))
    }

    async fn compute(&self, service: &str) -> Result<Answer, StoreError> {
        let now = self.now();
        let window = self.0.store.first_minute(service).await?.map(|first| Window::rolling(first, now));
        let ledger = match window {
            Some(window) => self.0.store.ledger(service, window.from, now).await?,
            None => Ledger::empty(),
        };
        let summary = Summary::compute(&ledger, window, self.0.targets);
        metrics::show(service, &summary);
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

/// The problem that a failed store is to the caller; counts what it says about the ledger.
fn refuse(error: StoreError, minutes: usize) -> Problem {
    match error {
        StoreError::Damaged { .. } => {
            metrics::count_damaged_row();
            Problem::internal(error)
        }
        StoreError::Database(error) => {
            metrics::count_failed(minutes);
            database::map_error(error)
        }
    }
}
