//! Every metric of this crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use strum::VariantArray;

const CONNECTIONS: &str = "ml_transport_connections_total";
const CONNECTIONS_OPEN: &str = "ml_transport_connections_open";
const HANDSHAKES: &str = "ml_transport_handshakes_total";
const REFUSALS: &str = "ml_transport_refusals_total";
const RETIREMENTS: &str = "ml_transport_retirements_total";
const CONNECTS: &str = "ml_transport_connects_total";

/// The outcome of accepting a TCP connection.
#[derive(Clone, Copy, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Accepted {
    Taken,
    /// One too many: closed unanswered.
    Full,
    /// The system could not accept it.
    Failed,
}

/// The outcome of a TLS handshake.
#[derive(Clone, Copy, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Handshake {
    Completed,
    Refused,
    TimedOut,
}

/// Why a request did not reach the router.
#[derive(Clone, Copy, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RequestRefusal {
    Peer,
    Body,
}

/// Why a connection was asked to end.
#[derive(Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Retirement {
    Age,
    Trust,
    Stop,
}

/// The outcome of an attempt to reach an address.
#[derive(Clone, Copy, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Connect {
    Completed,
    Failed,
}

/// Counts a connection as open until dropped.
pub(crate) struct Open(metrics::Gauge);

// === impl Open ===

impl Open {
    pub(crate) fn on(listener: &'static str) -> Self {
        let gauge = gauge!(CONNECTIONS_OPEN, "listener" => listener);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Registers everything that a listener counts, at zero.
pub(crate) fn describe_listener(listener: &'static str) {
    describe_counter!(CONNECTIONS, "TCP connections by what became of them.");
    describe_gauge!(CONNECTIONS_OPEN, "Connections that are open now.");
    describe_counter!(HANDSHAKES, "TLS handshakes by what became of them.");
    describe_counter!(REFUSALS, "Requests that did not reach the router.");
    describe_counter!(RETIREMENTS, "Connections that were asked to end.");
    gauge!(CONNECTIONS_OPEN, "listener" => listener).increment(0.0);
    for outcome in Accepted::VARIANTS {
        counter!(CONNECTIONS, "listener" => listener, "outcome" => <&str>::from(outcome)).increment(0);
    }
    for outcome in Handshake::VARIANTS {
        counter!(HANDSHAKES, "listener" => listener, "outcome" => <&str>::from(outcome)).increment(0);
    }
    for reason in RequestRefusal::VARIANTS {
        counter!(REFUSALS, "listener" => listener, "reason" => <&str>::from(reason)).increment(0);
    }
    for reason in Retirement::VARIANTS {
        counter!(RETIREMENTS, "listener" => listener, "reason" => <&str>::from(reason)).increment(0);
    }
}

/// Registers everything that a channel counts, at zero.
pub(crate) fn describe_channel(service: &str) {
    describe_counter!(CONNECTS, "Attempts to reach an address of a service by what became of them.");
    for outcome in Connect::VARIANTS {
        counter!(CONNECTS, "service" => service.to_owned(), "outcome" => <&str>::from(outcome)).increment(0);
    }
}

pub(crate) fn count_accepted(listener: &'static str, outcome: Accepted) {
    counter!(CONNECTIONS, "listener" => listener, "outcome" => <&str>::from(outcome)).increment(1);
}

pub(crate) fn count_handshake(listener: &'static str, outcome: Handshake) {
    counter!(HANDSHAKES, "listener" => listener, "outcome" => <&str>::from(outcome)).increment(1);
}

pub(crate) fn count_refusal(listener: &'static str, reason: RequestRefusal) {
    counter!(REFUSALS, "listener" => listener, "reason" => <&str>::from(reason)).increment(1);
}

pub(crate) fn count_retirement(listener: &'static str, reason: Retirement) {
    counter!(RETIREMENTS, "listener" => listener, "reason" => <&str>::from(reason)).increment(1);
}

pub(crate) fn count_connect(service: &str, outcome: Connect) {
    counter!(CONNECTS, "service" => service.to_owned(), "outcome" => <&str>::from(outcome)).increment(1);
}
