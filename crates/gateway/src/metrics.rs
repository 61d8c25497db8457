//! Every metric of this crate, with every label value, registered at zero when the service starts.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use strum::{IntoStaticStr, VariantArray};

use crate::audit::EventKind;

const ATTEMPTS: &str = "ml_auth_attempts_total";
const DURATION: &str = "ml_auth_duration_seconds";
const LOCKOUTS: &str = "ml_auth_lockouts_total";
const TOKENS_ISSUED: &str = "ml_auth_tokens_issued_total";
const AUDIT_EVENTS: &str = "ml_audit_events_total";
const AUDIT_WRITE_FAILURES: &str = "ml_audit_write_failures_total";
const AUDIT_DROPPED: &str = "ml_audit_dropped_total";
const AUDIT_BROKEN: &str = "ml_audit_chain_verification_failures_total";
const AUTH_STATE_AGE: &str = "ml_gateway_memory_age_seconds";
const USERS: &str = "ml_gateway_users";
const WATCHERS: &str = "ml_gateway_revocation_watchers";
const REVOCATIONS: &str = "ml_gateway_revocations_total";

/// How an identity was to be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AuthMethod {
    /// Name and password.
    Password,
    /// Client id and secret.
    ClientCredentials,
    /// A refresh token.
    RefreshToken,
    /// The one-time token of the first start.
    Bootstrap,
    /// An access token, for a passport.
    AccessToken,
}

/// How an authentication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AuthOutcome {
    /// Proven.
    Ok,
    /// Not proven.
    Refused,
    /// Too many failures before; not looked at.
    Throttled,
    /// The request could not be understood.
    Invalid,
    /// Could not be looked at now.
    Unavailable,
}

/// Describes every metric and makes every series exist.
pub fn register() {
    describe_counter!(ATTEMPTS, Unit::Count, "Proofs of identity that were presented, by method and outcome");
    describe_histogram!(DURATION, Unit::Seconds, "Time to judge a proof of identity, by method");
    describe_counter!(LOCKOUTS, Unit::Count, "Attempts that were not looked at after too many failures, by limit");
    describe_counter!(TOKENS_ISSUED, Unit::Count, "Tokens signed, by kind");
    describe_counter!(AUDIT_EVENTS, Unit::Count, "Records added to the audit log, by event");
    describe_counter!(AUDIT_WRITE_FAILURES, Unit::Count, "Audit records that could not be written at once");
    describe_counter!(AUDIT_DROPPED, Unit::Count, "Refusals that were too many to be recorded one by one");
    describe_counter!(AUDIT_BROKEN, Unit::Count, "Times that the audit log's own chain did not verify");
    describe_gauge!(AUTH_STATE_AGE, Unit::Seconds, "How long ago users and revocations were last known to be complete");
    describe_gauge!(USERS, Unit::Count, "Users known");
    describe_gauge!(WATCHERS, Unit::Count, "Open streams of revocations");
    describe_counter!(REVOCATIONS, Unit::Count, "Revocations learnt of, by what they end");
    for method in AuthMethod::VARIANTS.iter().map(<&'static str>::from) {
        for outcome in AuthOutcome::VARIANTS.iter().map(<&'static str>::from) {
            counter!(ATTEMPTS, "method" => method, "outcome" => outcome).absolute(0);
        }
        let _registered = histogram!(DURATION, "method" => method);
    }
    for reason in ["account", "address"] {
        counter!(LOCKOUTS, "reason" => reason).absolute(0);
    }
    for kind in ["access", "refresh", "passport"] {
        counter!(TOKENS_ISSUED, "kind" => kind).absolute(0);
    }
    for kind in EventKind::VARIANTS.iter().map(<&'static str>::from) {
        counter!(AUDIT_EVENTS, "kind" => kind).absolute(0);
    }
    for kind in ["token", "session", "subject"] {
        counter!(REVOCATIONS, "kind" => kind).absolute(0);
    }
    for name in [AUDIT_WRITE_FAILURES, AUDIT_DROPPED, AUDIT_BROKEN] {
        counter!(name).absolute(0);
    }
    gauge!(AUTH_STATE_AGE).set(0.0);
    gauge!(USERS).set(0.0);
    gauge!(WATCHERS).set(0.0);
}

/// A proof of identity was judged.
pub fn auth_attempt(method: AuthMethod, outcome: AuthOutcome, took: Duration) {
    let (method, outcome): (&'static str, &'static str) = (method.into(), outcome.into());
    counter!(ATTEMPTS, "method" => method, "outcome" => outcome).increment(1);
    histogram!(DURATION, "method" => method).record(took);
}

/// An attempt must wait, by the limit that was reached.
pub fn lockout(reason: &'static str) {
    counter!(LOCKOUTS, "reason" => reason).increment(1);
}

/// A token was signed or made.
pub fn token_issued(kind: &'static str) {
    counter!(TOKENS_ISSUED, "kind" => kind).increment(1);
}

/// A record was added to the audit log.
pub fn audit_event(kind: EventKind) {
    counter!(AUDIT_EVENTS, "kind" => <&'static str>::from(kind)).increment(1);
}

/// Audit records could not be written.
pub fn audit_write_failed() {
    counter!(AUDIT_WRITE_FAILURES).increment(1);
}

/// Refusals are recorded as a number only.
pub fn audit_dropped(count: u64) {
    counter!(AUDIT_DROPPED).increment(count);
}

/// The audit log's chain does not verify.
pub fn audit_chain_broken() {
    counter!(AUDIT_BROKEN).increment(1);
}

/// Time since users and revocations were last read.
pub fn auth_state_age(age: Duration) {
    gauge!(AUTH_STATE_AGE).set(age.as_secs_f64());
}

/// How many users there are.
#[expect(clippy::cast_precision_loss, reason = "there are at most a hundred thousand")]
pub fn users(count: usize) {
    gauge!(USERS).set(count as f64);
}

/// A stream of revocations was opened or, with -1, ended.
pub fn watchers(change: f64) {
    gauge!(WATCHERS).increment(change);
}

/// A revocation was applied.
pub fn revocation(kind: &'static str) {
    counter!(REVOCATIONS, "kind" => kind).increment(1);
}
