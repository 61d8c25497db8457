//! Every metric of this crate.

use metrics::{Counter, Unit, counter, describe_counter};
use policy::Action;

/// Decisions, by action and decision.
const DECISIONS: &str = "ml_authz_decisions_total";

/// How a call ended at the guard.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision {
    Allow,
    Deny,
    Unauthenticated,
}

/// One handle for each action and decision, registered once: a call only adds one.
pub(crate) struct Counters(Vec<[Counter; 3]>);

// === impl Decision ===

impl Decision {
    const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Unauthenticated];

    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(crate) fn new() -> Self {
        describe_counter!(DECISIONS, Unit::Count, "Calls that were allowed, denied, or had no valid credentials");
        let of_action = |action: &Action| {
            Decision::ALL
                .map(|decision| counter!(DECISIONS, "action" => action.as_str(), "decision" => decision.as_str()))
        };
        Self(Action::ALL.iter().map(of_action).collect())
    }

    pub(crate) fn count(&self, action: Action, decision: Decision) {
        let counter = self.0.get(action as usize).and_then(|decisions| decisions.get(decision as usize));
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }
}
