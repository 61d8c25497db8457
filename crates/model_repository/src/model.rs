//! One model version that serves.

mod statistics;

use std::time::Instant;

use engine::{Isolation, Pool, PoolError, RunFault, Signature, Timings, tensor::Tensor};
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
    /// Of its files, see [`engine::FileDigests::whole`].
    pub digest: Sha256Digest,
    /// Length of the model file and of those with its weights.
    pub file_bytes: u64,
    /// Where it computes.
    pub isolation: Isolation,
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

    /// Whether a load of these files with this declaration would give the very same.
    pub fn is_same(&self, digest: Sha256Digest, declared: &Signature, isolation: Isolation) -> bool {
        self.identity.digest == digest
            && self.identity.isolation == isolation
            && declared.in_order_of(&self.signature).is_ok_and(|signature| signature == self.signature)
    }

    /// Computes the wanted outputs, by position, of inputs that were checked against the signature. `caller` is whose call it is: a caller
    /// whose calls crash the model is kept from it.
    pub async fn compute(
        &self,
        caller: &str,
        inputs: Vec<Tensor>,
        wanted: Vec<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Tensor>, Timings), Problem> {
        self.pool.run(caller, inputs, wanted, deadline).await.map_err(|refusal| self.problem(refusal))
    }

    fn problem(&self, refusal: PoolError) -> Problem {
        let name = &self.identity.name;
        match refusal {
            PoolError::QueueFull => Problem::unavailable(format!("the queue of the model \"{name}\" is full; try again")),
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
            PoolError::Quarantined { left } => Problem::new(
                Kind::ResourceExhausted,
                format!("calls of yours ended the process of the model \"{name}\" twice within a minute; this replica computes no other of them for now: wait, and send other inputs"),
            )
            .retry_after(left),
            PoolError::NoWorker => Problem::unavailable(format!(
                "no process for the model \"{name}\" can be started; the log of this replica says why"
            )),
            PoolError::Died { how, was_killed: true } => Problem::new(
                Kind::TooLarge,
                format!("the model's process ended while it computed these inputs: {how}"),
            )
            .field("inputs"),
            PoolError::Died { how, was_killed: false } => Problem::new(
                Kind::InvalidArgument,
                format!("the model's process crashed while it computed these inputs: {how}"),
            )
            .field("inputs"),
            PoolError::Run(RunFault::Inputs(detail)) => {
                let detail = first_line(&detail);
                Problem::new(Kind::InvalidArgument, format!("the model cannot compute these inputs: {detail}"))
                    .field("inputs")
            }
            PoolError::Run(RunFault::Memory(detail)) => {
                let detail = first_line(&detail);
                let what = format!("these inputs take more memory than the model may have (probe.memory_bytes_max), so send less at a time: {detail}");
                Problem::new(Kind::TooLarge, what).field("inputs")
            }
            PoolError::Run(fault @ RunFault::AnswerTooLong { .. }) => Problem::new(Kind::TooLarge, fault.to_string()),
            PoolError::Run(fault) => Problem::internal(fault),
        }
    }
}

fn first_line(detail: &str) -> &str {
    detail.lines().next().unwrap_or_default()
}
