//! One model version that serves.

mod statistics;

use std::time::Instant;

use engine::{Pool, PoolError, RunFault, Signature, Timings, tensor::Tensor};
use problem::{Kind, Problem};
use sha256::Sha256Digest;

pub use statistics::{Durations, Statistics};

use crate::{
    metrics::{ModelMetrics, Stage},
    names::{ModelName, Version},
};

/// Which model version this is, and of which file.
pub struct ModelIdentity {
    /// The model.
    pub name: ModelName,
    /// The version of it.
    pub version: Version,
    /// Of the model file.
    pub digest: Sha256Digest,
    /// Length of the model file.
    pub file_bytes: u64,
}

/// A model version in memory, with its workers and its counts. Dropping the last share ends the workers.
pub struct Model {
    /// Which version this is.
    pub identity: ModelIdentity,
    /// The version as answers carry it.
    pub version_text: String,
    /// Inputs and outputs in the order of the file.
    pub signature: Signature,
    /// Counts since it was loaded.
    pub statistics: Statistics,
    /// The same for Prometheus.
    pub metrics: ModelMetrics,
    pool: Pool,
}

// === impl Model ===

impl Model {
    pub(crate) fn new(identity: ModelIdentity, signature: Signature, pool: Pool, metrics: ModelMetrics) -> Self {
        let version_text = identity.version.to_string();
        Self { identity, version_text, signature, statistics: Statistics::default(), metrics, pool }
    }

    /// Whether a load of this file with this declaration would give the very same.
    pub fn is_same(&self, digest: Sha256Digest, declared: &Signature) -> bool {
        self.identity.digest == digest
            && declared.in_order_of(&self.signature).is_ok_and(|signature| signature == self.signature)
    }

    /// Computes the wanted outputs, by position, of inputs that were checked against the signature.
    pub async fn compute(
        &self,
        inputs: Vec<Tensor>,
        wanted: Vec<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Tensor>, Timings), Problem> {
        self.pool.run(inputs, wanted, deadline).await.map_err(|refusal| self.problem(refusal))
    }

    fn problem(&self, refusal: PoolError) -> Problem {
        let name = &self.identity.name;
        match refusal {
            PoolError::QueueFull => Problem::unavailable(format!("the queue of the model \"{name}\" is full")),
            PoolError::ExpiredInQueue => {
                self.metrics.count_expired(Stage::Queue);
                Problem::new(
                    Kind::DeadlineExceeded,
                    "the deadline passed before a worker was free; nothing was computed",
                )
            }
            PoolError::ExpiredInCompute => {
                self.metrics.count_expired(Stage::Compute);
                Problem::new(Kind::DeadlineExceeded, "the deadline passed while the model computed")
            }
            PoolError::Run(RunFault::Inputs(detail)) => {
                let detail = detail.lines().next().unwrap_or_default().to_owned();
                Problem::new(Kind::InvalidArgument, format!("the model cannot compute these inputs: {detail}"))
                    .field("inputs")
            }
            PoolError::Run(fault) => Problem::internal(fault),
        }
    }
}
