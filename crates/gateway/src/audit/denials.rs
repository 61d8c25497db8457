//! Denials, recorded after the response.
//!
//! A caller without rights decides how many denials there are, so a denial neither waits for the database nor writes a
//! row of its own. Denials go through a bounded queue, and equal ones of the same second become one record with a
//! count. What does not fit is counted and recorded as dropped.
//!
//! Only what unauthenticated callers can cause at will goes this way: what the policies refused, texts that are no valid
//! token, and attempts that must wait. Everything else is recorded before the response.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::event::{Actor, AuditEvent, EventKind, EventOutcome, RequestSource};

/// How many denials may wait to be written.
pub const DENIAL_QUEUE_MAX: usize = 4_096;

/// How many different records one batch makes at most.
const BATCH_MAX: usize = 256;

/// A denial that is recorded after the response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denial {
    /// What was requested.
    pub kind: EventKind,
    /// How it ended.
    pub outcome: EventOutcome,
    /// Who requested it.
    pub actor: Actor,
    /// For what, e.g. `GET /api/admin/users`.
    pub resource: Option<String>,
    /// Why it was refused.
    pub reason: Option<&'static str>,
    /// Where it came from.
    pub source: RequestSource,
}

/// The sending end of the queue.
#[derive(Debug)]
pub struct DenialQueue {
    sender: mpsc::Sender<Denial>,
    dropped: AtomicU64,
    policy_set: String,
}

// === impl DenialQueue ===

impl DenialQueue {
    /// A queue and its receiving end. `policy_set` is the hash of the policies that decide.
    pub fn queue(policy_set: &str) -> (Self, mpsc::Receiver<Denial>) {
        let (sender, receiver) = mpsc::channel(DENIAL_QUEUE_MAX);
        (Self { sender, dropped: AtomicU64::new(0), policy_set: policy_set.to_owned() }, receiver)
    }

    /// Queues a denial. Never waits. The trace id is left out: with it no two denials would be equal.
    pub fn push(&self, mut denial: Denial) {
        denial.source.trace_id = None;
        if self.sender.try_send(denial).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The events of a batch: equal denials once, with their count, and what was dropped since the last batch.
    pub fn batch(&self, denials: impl IntoIterator<Item = Denial>) -> Vec<AuditEvent> {
        let mut counts: HashMap<Denial, u64> = HashMap::new();
        let mut dropped = self.dropped.swap(0, Ordering::Relaxed);
        for denial in denials {
            // A client can vary its address, so the number of different records is bounded, too.
            if counts.len() < BATCH_MAX || counts.contains_key(&denial) {
                *counts.entry(denial).or_default() += 1;
            } else {
                dropped += 1;
            }
        }
        let event = |(denial, count): (Denial, u64)| denial.event(count, &self.policy_set);
        let mut events: Vec<AuditEvent> = counts.into_iter().map(event).collect();
        if dropped > 0 {
            let event = AuditEvent::new(
                EventKind::DroppedRecords,
                EventOutcome::Denied,
                Actor::Anonymous,
                RequestSource::default(),
            );
            events.push(event.with("count", dropped));
        }
        events
    }

    /// Counts a batch that could not be written as dropped, to be recorded once writing works again.
    pub fn count_dropped(&self, events: &[AuditEvent]) {
        let count = events.iter().filter_map(|event| event.details.get("count")?.as_u64()).sum();
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

// === impl Denial ===

impl Denial {
    fn event(self, count: u64, policy_set: &str) -> AuditEvent {
        let mut event = AuditEvent::new(self.kind, self.outcome, self.actor, self.source).with("count", count);
        if self.kind == EventKind::Access {
            event = event.with("policy_set", policy_set);
        }
        event.resource = self.resource;
        event.reason = self.reason;
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(address: &str) -> Denial {
        Denial {
            kind: EventKind::Authorize,
            outcome: EventOutcome::Failure,
            actor: Actor::Anonymous,
            resource: None,
            reason: Some("expired"),
            source: RequestSource { address: Some(address.to_owned()), ..RequestSource::default() },
        }
    }

    #[test]
    fn a_flood_becomes_few_records_and_every_denial_is_counted() {
        let (denials, mut receiver) = DenialQueue::queue("hash");
        for _ in 0..DENIAL_QUEUE_MAX + 5 {
            denials.push(denial("a"));
        }
        let queued: Vec<Denial> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        let events = denials.batch(queued);
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].details["count"], DENIAL_QUEUE_MAX);
        assert_eq!((events[1].kind, &events[1].details["count"]), (EventKind::DroppedRecords, &5.into()));

        denials.count_dropped(&events);
        assert_eq!(
            denials.batch([]).pop().unwrap().details["count"],
            DENIAL_QUEUE_MAX + 5,
            "counted again after a failed write"
        );
        assert!(denials.batch([]).is_empty());
    }

    #[test]
    fn varied_denials_make_a_bounded_number_of_records() {
        let (denials, _receiver) = DenialQueue::queue("hash");
        let events = denials.batch((0..1_000).map(|number| denial(&number.to_string())));
        assert_eq!(events.len(), BATCH_MAX + 1);
    }
}
