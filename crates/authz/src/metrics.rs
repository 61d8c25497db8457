//! Every metric of this crate.

use metrics::{Counter, Unit, counter, describe_counter};
use policy::Action;
use strum::VariantArray;

/// Decisions of the guard, by action.
const DECISIONS: &str = "ml_authz_decisions_total";

/// The guard's decision about a call.
#[derive(Clone, Copy, Debug, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Decision {
    Allow,
    Deny,
    Unauthenticated,
}

/// One handle for each action and decision, registered once: a call only adds one.
pub(crate) struct Counters(Vec<Vec<Counter>>);

// === impl Counters ===

impl Counters {
    pub(crate) fn new() -> Self {
        describe_counter!(DECISIONS, Unit::Count, "Calls that were allowed, denied, or had no valid credentials");
        let of_action = |action: &Action| {
            let of_decision = |decision: &Decision| counter!(DECISIONS, "action" => action.as_str(), "decision" => <&str>::from(decision));
            Decision::VARIANTS.iter().map(of_decision).collect()
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
