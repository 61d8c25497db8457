//! The states of a replica, as the choice among replicas, the status page and the metrics name them.

use strum::{IntoStaticStr, VariantArray};

/// What the health checks say about a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ReplicaState {
    /// Never checked yet.
    Starting,
    /// It gets requests.
    Healthy,
    /// It answers and says that it does not serve: no new requests, those in flight go on.
    Draining,
    /// It does not answer: no requests, its sockets are shut or will be.
    Unhealthy,
}
