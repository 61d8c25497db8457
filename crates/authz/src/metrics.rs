//! Every metric of this crate.

use metrics::{Counter, Unit, counter, describe_counter};

use crate::Action;

/// Decisions, by action and outcome.
const DECISIONS: &str = "ml_authz_decisions_total";

/// How a call ended at the guard.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Allow,
    Deny,
    Unauthenticated,
}

/// One handle for each action and outcome, registered once: a call only adds one.
pub(crate) struct Counters(Vec<[Counter; 3]>);

// === impl Outcome ===

impl Outcome {
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
            Outcome::ALL.map(|outcome| counter!(DECISIONS, "action" => action.as_str(), "decision" => outcome.as_str()))
        };
        Self(Action::ALL.iter().map(of_action).collect())
    }

    pub(crate) fn count(&self, action: Action, outcome: Outcome) {
        let counter = self.0.get(action.index()).and_then(|outcomes| outcomes.get(outcome as usize));
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }
}
