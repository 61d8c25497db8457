//! Minutes for the SLA tracker: counted here, where clients experience them, and reported until they are acknowledged.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use metrics::Counter;
use parking_lot::Mutex;
use proto::sla::v1::{Minute as Report, ReportMinutesRequest, ledger_client::LedgerClient};
use serde::Deserialize;
use slo::{Counts, Latencies, Outcome};
use telemetry::FailureLog;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use transport::Channel;
use uuid::Uuid;

use crate::metrics::sla_minutes_dropped;

/// The service that the SLA is about.
const SERVICE: &str = "ml-services";
/// Unacknowledged minutes that are buffered: two hours.
const BUFFERED_MINUTES_MAX: usize = 120;
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// A report that is later than this was not late by chance: the process was frozen meanwhile.
const REPORT_DELAY_MAX: Duration = Duration::from_secs(10);

/// The `[sla]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlaConfig {
    /// How often minutes are reported, the current one with them.
    pub report_interval_s: u64,
}

/// The minutes that the tracker has not yet acknowledged as finished.
pub struct MinuteBuffer {
    minutes: Mutex<BTreeMap<u64, Minute>>,
    dropped: Counter,
}

struct Minute {
    counts: Counts,
    latencies: Latencies,
}

// === impl MinuteBuffer ===

impl MinuteBuffer {
    /// An empty buffer.
    pub fn new() -> Arc<Self> {
        let dropped = sla_minutes_dropped();
        dropped.increment(0);
        Arc::new(Self { minutes: Mutex::default(), dropped })
    }

    /// Counts a request that has ended now.
    pub fn record(&self, outcome: Outcome, elapsed: Duration) {
        self.record_at(current_minute(), outcome, elapsed);
    }

    fn record_at(&self, minute: u64, outcome: Outcome, elapsed: Duration) {
        self.with_minute(minute, |counts| counts.record(outcome, elapsed));
    }

    fn with_minute(&self, minute: u64, change: impl FnOnce(&mut Minute)) {
        let mut minutes = self.minutes.lock();
        change(minutes.entry(minute).or_insert_with(Minute::new));
        while minutes.len() > BUFFERED_MINUTES_MAX {
            minutes.pop_first();
            self.dropped.increment(1);
        }
    }

    /// Idle minutes are reported with zero requests: without them the tracker could not tell idle from lost.
    fn record_idle_minutes(&self, minutes: Range<u64>) {
        for minute in minutes {
            self.with_minute(minute, |_| {});
        }
    }

    /// The last unacknowledged minutes up to now, as the tracker wants them.
    fn report(&self) -> Vec<Report> {
        self.minutes.lock().iter().map(|(minute, counts)| counts.report(*minute)).collect()
    }

    /// Everything before this minute is recorded and finished.
    fn acknowledge_before(&self, minute: u64) {
        let mut minutes = self.minutes.lock();
        *minutes = minutes.split_off(&minute);
    }
}

/// The minutes that this process has observed from their first second to their last. Of any other it cannot say that it was
/// idle.
struct ObservedWindow {
    first_whole_minute: u64,
    last_checked: Instant,
    pause_max: Duration,
}

/// Reports until stopped, and once more then. To be started when the listener accepts clients.
pub async fn report_until_stopped(
    buffer: Arc<MinuteBuffer>,
    channel: Channel,
    source: String,
    config: SlaConfig,
    stop: CancellationToken,
) {
    let boot_id = Uuid::new_v4().to_string();
    let mut client = LedgerClient::new(channel);
    let interval = Duration::from_secs(config.report_interval_s.max(1));
    let mut window = ObservedWindow::from(current_minute(), interval + REPORT_DELAY_MAX);
    // Not at once: a platform starts as a whole, the tracker perhaps later.
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = FailureLog::once();
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        // Requests that end while the report is under way belong to this minute or a later one: both are sent again.
        let current = current_minute();
        buffer.record_idle_minutes(window.idle_minutes(current, Instant::now()));
        let sent = send(&buffer, current, &mut client, &source, &boot_id).await;
        if is_last {
            // A platform stops as a whole, the tracker perhaps first: no WARN for that.
            if let Err(why) = sent {
                tracing::info!(why, "the last minutes were not reported to the SLA tracker, and are lost");
            }
            return;
        }
        log_report(sent, &mut failures);
    }
}

/// One line when reports begin to fail, one when they succeed again.
fn log_report(sent: Result<(), String>, failures: &mut FailureLog) {
    match sent {
        Err(why) if failures.failed() => tracing::warn!(
            why,
            "minutes were not reported to the SLA tracker; they are kept for two hours and sent again"
        ),
        Ok(()) if failures.recovered() => tracing::info!("minutes are reported to the SLA tracker again"),
        _ => {}
    }
}

async fn send(
    buffer: &MinuteBuffer,
    current: u64,
    client: &mut LedgerClient<Channel>,
    source: &str,
    boot_id: &str,
) -> Result<(), String> {
    let minutes = buffer.report();
    // No request came and no idle minute is over: the tracker refuses an empty report.
    if minutes.is_empty() {
        return Ok(());
    }
    let sent = minutes.len();
    let request = ReportMinutesRequest { source: source.into(), boot_id: boot_id.into(), minutes };
    let response = tokio::time::timeout(REPORT_TIMEOUT, client.report_minutes(request)).await;
    let recorded = match response {
        Ok(Ok(response)) => response.into_inner().recorded,
        Ok(Err(status)) => return Err(crate::describe(&status)),
        Err(_) => return Err("no answer in time".into()),
    };
    if usize::try_from(recorded) != Ok(sent) {
        return Err(format!("recorded {recorded} of {sent} minutes"));
    }
    buffer.acknowledge_before(current);
    Ok(())
}

// === impl ObservedWindow ===

impl ObservedWindow {
    fn from(current: u64, pause_max: Duration) -> Self {
        Self { first_whole_minute: current + 1, last_checked: Instant::now(), pause_max }
    }

    /// The minutes that ended since the last call and were observed whole.
    fn idle_minutes(&mut self, current: u64, now: Instant) -> Range<u64> {
        if now.duration_since(self.last_checked) > self.pause_max {
            self.first_whole_minute = current + 1;
        }
        self.last_checked = now;
        let ended = self.first_whole_minute..current;
        self.first_whole_minute = self.first_whole_minute.max(current);
        ended
    }
}

// === impl Minute ===

impl Minute {
    fn new() -> Self {
        Self { counts: Counts::default(), latencies: Latencies::empty() }
    }

    fn record(&mut self, outcome: Outcome, elapsed: Duration) {
        if self.counts.record(outcome, elapsed) {
            self.latencies.record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn report(&self, minute: u64) -> Report {
        let Counts { good, bad, shed, client_error, slow } = self.counts;
        let (service, latency_histogram) = (SERVICE.to_owned(), self.latencies.encode());
        let minute = Some((UNIX_EPOCH + Duration::from_secs(minute * 60)).into());
        Report { service, minute, good, bad, shed, client_error, slow, latency_histogram }
    }
}

/// Minutes since 1970.
fn current_minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_and_only_good_and_bad_have_a_latency() {
        let buffer = MinuteBuffer::new();
        let ms = Duration::from_millis;
        for (outcome, elapsed) in [
            (Outcome::Ok, ms(5)),
            (Outcome::Ok, ms(100)),
            (Outcome::Ok, ms(101)),
            (Outcome::Error, ms(3)),
            (Outcome::Timeout, Duration::from_secs(100)),
            (Outcome::Shed, ms(1)),
            (Outcome::ClientError, ms(500)),
        ] {
            buffer.record_at(7, outcome, elapsed);
        }
        let report = buffer.report();
        let [minute] = &report[..] else { panic!("one minute") };
        assert_eq!((minute.good, minute.bad, minute.shed, minute.client_error, minute.slow), (3, 2, 1, 1, 2));
        assert_eq!(minute.minute.as_ref().unwrap().seconds, 420);
        let latencies = Latencies::decode(&minute.latency_histogram).unwrap();
        assert_eq!(latencies.count(), 5);
        assert_eq!(latencies.p95_us(), Some(60_000_000), "the longest that is told apart");
    }

    /// Neither the minute in which it began nor one that is not over, nor one in which it was not running.
    #[test]
    fn only_idle_minutes_observed_whole_are_recorded() {
        let pause_max = Duration::from_secs(15);
        let mut window = ObservedWindow::from(100, pause_max);
        let began = Instant::now();
        let mut at = |minute, after_s| window.idle_minutes(minute, began + Duration::from_secs(after_s));
        assert!(at(100, 1).is_empty());
        for after_s in [10, 20, 30, 40, 50, 60] {
            assert!(at(101, after_s).is_empty(), "it is not over");
        }
        assert_eq!(at(102, 70), 101..102);
        assert!(at(102, 80).is_empty(), "once is enough");
        assert!(at(103, 130).is_empty(), "frozen for 50 s, around the end of minute 102");
        assert!(at(104, 140).is_empty() && at(104, 150).is_empty());
        assert_eq!(at(105, 160), 104..105);
    }

    #[test]
    fn finished_minutes_are_kept_until_acknowledged_and_the_current_one_stays() {
        let buffer = MinuteBuffer::new();
        for minute in [5, 6, 7] {
            buffer.record_at(minute, Outcome::Ok, Duration::from_millis(1));
        }
        assert_eq!(buffer.report().len(), 3);
        assert_eq!(buffer.report().len(), 3, "nothing was acknowledged");
        buffer.acknowledge_before(7);
        assert_eq!(buffer.report().len(), 1);
    }

    #[test]
    fn the_backlog_is_bounded_and_loses_the_oldest() {
        let buffer = MinuteBuffer::new();
        for minute in 0..500 {
            buffer.record_at(minute, Outcome::Ok, Duration::from_millis(1));
        }
        let report = buffer.report();
        assert_eq!(report.len(), BUFFERED_MINUTES_MAX);
        assert_eq!(report[0].minute.as_ref().unwrap().seconds, (500 - 120) * 60);
    }
}
