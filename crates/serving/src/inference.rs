//! One prediction, whatever protocol it came by: the inputs put in order, the deadline, the computation, the counts.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use authz::Principal;
use engine::{Signature, TensorSpec, tensor::Tensor};
use model_repository::{Model, Stage};
use problem::{Kind, Problem};
use slo::Outcome;

use crate::byte_budget::CallBytes;

/// What a caller wants computed, checked against the signature.
#[derive(Debug)]
pub(crate) struct Call {
    /// One for each input of the signature, in its order.
    pub(crate) inputs: Vec<Tensor>,
    /// Positions in the signature's outputs, in the caller's order.
    pub(crate) wanted: Vec<usize>,
    /// The time the caller gives it, counted from the arrival.
    pub(crate) timeout: Option<Duration>,
}

/// Where in a request something is, e.g. `inputs[0]`; written out only when it is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(pub(crate) &'static str, pub(crate) usize);

/// Puts the inputs of a call in the signature's order.
pub(crate) struct Inputs<'s> {
    signature: &'s Signature,
    slots: Vec<Option<Tensor>>,
}

/// A prediction being measured. Whatever happens to it is counted once, also when its caller goes away.
pub(crate) struct MeasuredPrediction {
    model: Arc<Model>,
    caller: Option<Principal>,
    /// What the call holds of the budget.
    pub(crate) bytes: CallBytes,
    arrived: Instant,
    mark: Instant,
    /// None until there is an answer: if the caller leaves before, it stays so.
    outcome: Option<Outcome>,
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

// === impl Inputs ===

impl<'s> Inputs<'s> {
    pub(crate) fn new(signature: &'s Signature) -> Self {
        Self { signature, slots: vec![None; signature.inputs.len()] }
    }

    /// Takes the tensor for an input; `place` is where the caller wrote it.
    pub(crate) fn put(&mut self, name: &str, tensor: Tensor, place: Place) -> Result<(), Problem> {
        let unknown = || unknown(name, "input", &self.signature.inputs, place);
        let (position, spec) = self.signature.input(name).ok_or_else(unknown)?;
        spec.admit(tensor.datatype(), tensor.shape()).map_err(|mismatch| {
            Problem::new(Kind::InvalidArgument, mismatch.detail).field(format!("{place}.{}", mismatch.field))
        })?;
        let slot = self.slots.get_mut(position).ok_or_else(unknown)?;
        if slot.is_some() {
            return Err(
                Problem::new(Kind::InvalidArgument, format!("{name:?} is given twice")).field(format!("{place}.name"))
            );
        }
        *slot = Some(tensor);
        Ok(())
    }

    /// All inputs, or which is missing.
    pub(crate) fn finish(self) -> Result<Vec<Tensor>, Problem> {
        let missing = |position: usize| {
            let name = self.signature.inputs.get(position).map_or("", |spec| &spec.name);
            Problem::new(Kind::InvalidArgument, format!("the input {name:?} is missing")).field("inputs")
        };
        self.slots.into_iter().enumerate().map(|(position, slot)| slot.ok_or_else(|| missing(position))).collect()
    }
}

/// The position of a requested output; `place` is where the caller wrote it.
pub(crate) fn wanted_output(signature: &Signature, name: &str, place: Place) -> Result<usize, Problem> {
    let found = signature.output(name).map(|(position, _)| position);
    found.ok_or_else(|| unknown(name, "output", &signature.outputs, place))
}

fn unknown(name: &str, what: &str, specs: &[TensorSpec], place: Place) -> Problem {
    let known: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
    let shown: String = name.chars().take(64).collect();
    let detail = format!("the model has no {what} {shown:?}; it has {}", known.join(", "));
    Problem::new(Kind::InvalidArgument, detail).field(format!("{place}.name"))
}

/// Whose call it is: the user of the passport.
pub(crate) fn subject(caller: Option<&Principal>) -> &str {
    caller.and_then(Principal::passport).map_or("", |passport| &passport.sub)
}

// === impl MeasuredPrediction ===

impl MeasuredPrediction {
    /// A prediction arrived; its body is there and nothing was read of it yet.
    pub(crate) fn start(model: Arc<Model>, caller: Option<&Principal>, bytes: CallBytes, arrived: Instant) -> Self {
        Self { model, caller: caller.cloned(), bytes, arrived, mark: Instant::now(), outcome: None }
    }

    /// Reading the request is done: computes it before the deadline, which is at most `timeout_max` after the arrival.
    pub(crate) async fn compute(&mut self, call: Call, timeout_max: Duration) -> Result<Vec<Tensor>, Problem> {
        let decode = self.mark.elapsed();
        let timeout = call.timeout.map_or(timeout_max, |timeout| timeout.min(timeout_max));
        let rows = call.inputs.first().map_or(1, Tensor::rows);
        self.bytes.hold(call.inputs.iter().map(Tensor::bytes_held).sum())?;
        let computed =
            self.model.compute(subject(self.caller.as_ref()), call.inputs, call.wanted, self.arrived + timeout).await;
        self.mark = Instant::now();
        let (outputs, timings) = computed?;
        self.bytes.hold_computed(outputs.iter().map(Tensor::bytes_held).sum());
        let (statistics, metrics) = (&self.model.statistics, &self.model.metrics);
        metrics.record_stage(Stage::Decode, decode);
        metrics.record_stage(Stage::Queue, timings.queue);
        metrics.record_stage(Stage::Compute, timings.compute);
        metrics.record_rows(rows);
        statistics.compute_input.add(decode + timings.copy);
        statistics.queue.add(timings.queue);
        statistics.compute_infer.add(timings.compute);
        statistics.computed(rows);
        Ok(outputs)
    }

    /// The answer is written, or what is wrong.
    pub(crate) fn finish<T>(mut self, answer: Result<T, Problem>) -> Result<T, Problem> {
        self.outcome = Some(match &answer {
            Ok(_) => {
                let encode = self.mark.elapsed();
                self.model.metrics.record_stage(Stage::Encode, encode);
                self.model.statistics.compute_output.add(encode);
                Outcome::Ok
            }
            Err(problem) => Outcome::of_http(problem.kind().http_status().as_u16()),
        });
        answer
    }
}

impl Drop for MeasuredPrediction {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        self.model.metrics.record(self.outcome, took);
        let statistics = &self.model.statistics;
        if self.outcome == Some(Outcome::Ok) { &statistics.success } else { &statistics.fail }.add(took);
    }
}
