//! Denials, recorded after the response.
//!
//! A caller without rights decides how many denials there are, so a denial neither waits for the database nor writes a
//! row of its own. Denials are gathered, and equal ones of the same second become one record with a count. Each identified caller has
//! room of its own, and all strangers together have one: a flood of theirs pushes out none of a user's. What does not fit is counted and
//! recorded as dropped.
//!
//! Only what unauthenticated callers can cause at will goes this way: what the policies refused, texts that are no valid
//! token, and attempts that must wait. Everything else is recorded before the response.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::event::{Actor, AuditEvent, EventKind, EventOutcome, RequestSource};

/// How many different denials of strangers are kept for one batch. A client can vary its address.
const STRANGERS_MAX: usize = 256;
/// The same of one identified caller.
const CALLER_MAX: usize = 16;
/// How many identified callers have room in one batch.
const CALLERS_MAX: usize = 128;

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

/// The denials of the second under way.
#[derive(Debug)]
pub struct Denials {
    gathered: Mutex<Gathered>,
    arrived: Notify,
    policy_set: String,
}

#[derive(Debug, Default)]
struct Gathered {
    /// By user; `None` is every stranger.
    callers: HashMap<Option<Uuid>, HashMap<Denial, u64>>,
    dropped: u64,
}

// === impl Denials ===

impl Denials {
    /// None yet. `policy_set` is the hash of the policies that decide.
    pub fn new(policy_set: &str) -> Self {
        Self { gathered: Mutex::default(), arrived: Notify::new(), policy_set: policy_set.to_owned() }
    }

    /// Keeps a denial for the next batch. Never waits. The trace id is left out: with it no two denials would be equal.
    pub fn push(&self, mut denial: Denial) {
        denial.source.trace_id = None;
        self.gathered.lock().push(denial);
        self.arrived.notify_one();
    }

    /// Waits until there is something to record.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// The events of what was gathered: equal denials once, with their count, and how many were dropped since the last batch.
    pub fn take(&self) -> Vec<AuditEvent> {
        let Gathered { callers, dropped } = std::mem::take(&mut *self.gathered.lock());
        let event = |(denial, count): (Denial, u64)| denial.event(count, &self.policy_set);
        let mut events: Vec<AuditEvent> = callers.into_values().flatten().map(event).collect();
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
        let count: u64 = events.iter().filter_map(|event| event.details.get("count")?.as_u64()).sum();
        self.gathered.lock().dropped += count;
    }
}

// === impl Gathered ===

impl Gathered {
    fn push(&mut self, denial: Denial) {
        let (caller, max) = match &denial.actor {
            Actor::Anonymous => (None, STRANGERS_MAX),
            Actor::User { id, .. } => (Some(*id), CALLER_MAX),
        };
        let has_room = self.callers.len() < CALLERS_MAX || caller.is_none() || self.callers.contains_key(&caller);
        if !has_room {
            self.dropped += 1;
            return;
        }
        let counts = self.callers.entry(caller).or_default();
        if counts.len() < max || counts.contains_key(&denial) {
            *counts.entry(denial).or_default() += 1;
        } else {
            self.dropped += 1;
        }
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
        let denials = Denials::new("hash");
        for _ in 0..5_000 {
            denials.push(denial("a"));
        }
        let events = denials.take();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].details["count"], 5_000);

        denials.count_dropped(&events);
        let again = denials.take();
        assert_eq!((again[0].kind, &again[0].details["count"]), (EventKind::DroppedRecords, &5_000.into()));
        assert!(denials.take().is_empty());
    }

    /// Strangers vary what they send as they like; what users are refused is recorded all the same.
    #[test]
    fn strangers_push_out_no_denial_of_a_user() {
        let denials = Denials::new("hash");
        (0..10_000).for_each(|number| denials.push(denial(&number.to_string())));
        let of_user = |id: u128, resource: usize| Denial {
            actor: Actor::User { id: Uuid::from_u128(id), session: None },
            resource: Some(resource.to_string()),
            ..denial("a")
        };
        (0..100).for_each(|resource| denials.push(of_user(1, resource)));
        denials.push(of_user(2, 0));
        let events = denials.take();
        let count = |id| {
            events
                .iter()
                .filter(|event| matches!(event.actor, Actor::User { id: of, .. } if of == Uuid::from_u128(id)))
                .count()
        };
        assert_eq!((count(1), count(2)), (CALLER_MAX, 1));
        assert_eq!(events.len(), STRANGERS_MAX + CALLER_MAX + 1 + 1);
        let dropped = events.iter().find(|event| event.kind == EventKind::DroppedRecords).unwrap();
        assert_eq!(dropped.details["count"], 10_000 - STRANGERS_MAX + 100 - CALLER_MAX);
    }
}
