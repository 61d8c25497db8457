//! The statistics of models: each replica has counted what it computed itself, and the client gets the sums.
//!
//! Of models nothing is known here but the form of their statistics. The sums are of the replicas that answered; over REST the
//! answer has a list `replicas` beside them, with each one's own figures or the reason why they are missing, and over gRPC the
//! header `rampart-missing-replicas` names those that are not in the sums. When no replica gives figures, the worst of their
//! answers is the client's.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use pingora::http::RequestHeader;
use problem::{Form, Problem};
use proto::inference::{InferStatistics, ModelStatistics, ModelStatisticsResponse};
use serde::{Deserialize, Serialize, de::Error as _};
use serde_json::value::RawValue;
use tokio::{task::spawn_blocking, time::Duration};

use super::{
    RequestState,
    broadcast::{self, Answer, AnswerBounds, Reply},
    grpc_message,
};

/// A replica that takes longer is left out: figures are soon out of date.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Of one replica: its repository can have 256 models with 16 versions, each with half a kilobyte of figures.
const ANSWER_BYTES_MAX: usize = 4 << 20;

const MISSING_REPLICAS: HeaderName = HeaderName::from_static("rampart-missing-replicas");

/// The members of what a replica answers over REST: its figures, and at `/v2/models/stats` also the metadata of a model that is
/// called `stats`.
type Members<'a> = BTreeMap<String, &'a RawValue>;

const FIGURES: &str = "model_stats";

#[derive(Deserialize)]
struct ReplicaError {
    error: String,
}

/// What the client gets over REST.
#[derive(Serialize)]
struct Sums<'a> {
    model_stats: Vec<Figures>,
    replicas: Vec<ReplicaFigures<'a>>,
    /// Of the first replica that has some: they are no figures, and so the same everywhere.
    #[serde(flatten)]
    metadata: Members<'a>,
}

/// The figures of one replica, as it sent them, or why there are none.
#[derive(Serialize)]
struct ReplicaFigures<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_stats: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The figures of one model version.
#[derive(Deserialize, Serialize)]
struct Figures {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: BTreeMap<String, Durations>,
    /// Nothing is computed in batches, so there are none.
    #[serde(skip_deserializing)]
    batch_stats: [(); 0],
}

#[derive(Default, Deserialize, Serialize)]
struct Durations {
    count: u64,
    ns: u64,
}

/// Asks every replica, and answers with the sums.
pub(super) async fn answer(state: &mut RequestState, head: &RequestHeader, body: Bytes) -> Answer {
    let context = &mut state.context;
    context.record_part(true);
    let mut request = broadcast::request(context, head, body)?;
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    let time_max = broadcast::time_left(context)?.min(WAIT_MAX);
    let bounds = AnswerBounds { time_max, bytes_max: ANSWER_BYTES_MAX };
    let replies = context.shared.broadcast.send(&request, bounds).await;
    let form = context.form;
    // Of many models it is work.
    let summed = spawn_blocking(move || sum(replies, form));
    let answer = summed.await.unwrap_or_else(|error| Err(Problem::internal(error)))?;
    state.outcome.grpc_status = broadcast::status_of(&answer);
    Ok(answer)
}

fn sum(replies: Vec<Reply>, form: Form) -> Answer {
    if !replies.iter().any(|reply| figures_of(reply).is_some()) {
        return broadcast::worst(replies);
    }
    match form {
        Form::Grpc => sum_messages(&replies),
        Form::Api | Form::Inference | Form::Registry => sum_json(&replies),
    }
}

/// The body of an answer with figures.
fn figures_of(reply: &Reply) -> Option<&Bytes> {
    let answer = reply.answer.as_ref()?;
    let is_good = broadcast::severity(answer) == StatusCode::OK.as_u16();
    answer.as_ref().ok().filter(|_| is_good).map(Response::body)
}

fn sum_json(replies: &[Reply]) -> Answer {
    let mut sums = BTreeMap::new();
    let mut replicas = Vec::new();
    let mut metadata = Members::new();
    for reply in replies {
        let name = reply.replica.name.as_str();
        let read = figures_of(reply).map(|body| -> serde_json::Result<_> {
            let mut members: Members<'_> = serde_json::from_slice(body)?;
            let model_stats = members.remove(FIGURES).ok_or_else(|| serde_json::Error::missing_field(FIGURES))?;
            let figures: Vec<Figures> = serde_json::from_str(model_stats.get())?;
            Ok((model_stats, figures, members))
        });
        let replica = match read {
            Some(Ok((model_stats, figures, members))) => {
                if metadata.is_empty() {
                    metadata = members;
                }
                for figures in figures {
                    add_up(&mut sums, key(&figures.name, &figures.version), figures, Figures::add);
                }
                ReplicaFigures { name, model_stats: Some(model_stats), error: None }
            }
            Some(Err(error)) => ReplicaFigures { name, model_stats: None, error: Some(unreadable(name, &error)) },
            None => ReplicaFigures { name, model_stats: None, error: Some(why_missing(reply)) },
        };
        replicas.push(replica);
    }
    if replicas.iter().all(|replica| replica.model_stats.is_none()) {
        return Err(Problem::unavailable("no replica gave figures that can be read"));
    }
    let body = serde_json::to_vec(&Sums { model_stats: sums.into_values().collect(), replicas, metadata });
    let mut response = Response::new(Bytes::from(body.map_err(Problem::internal)?));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn sum_messages(replies: &[Reply]) -> Answer {
    let mut sums = BTreeMap::new();
    let mut missing = Vec::new();
    for reply in replies {
        let name = reply.replica.name.as_str();
        match figures_of(reply).map(grpc_message::read::<ModelStatisticsResponse>) {
            Some(Ok(message)) => {
                for figures in message.model_stats {
                    add_up(&mut sums, key(&figures.name, &figures.version), figures, add_statistics);
                }
                continue;
            }
            Some(Err(error)) => drop(unreadable(name, &error)),
            None => {}
        }
        missing.push(name);
    }
    if missing.len() == replies.len() {
        return Err(Problem::unavailable("no replica gave figures that can be read"));
    }
    let mut response = grpc_message::answer(&ModelStatisticsResponse { model_stats: sums.into_values().collect() })?;
    if !missing.is_empty() {
        let missing = HeaderValue::try_from(missing.join(", ")).map_err(Problem::internal)?;
        response.headers_mut().insert(MISSING_REPLICAS, missing);
    }
    Ok(response)
}

/// Why a replica's figures are missing. Its own words, if it has some.
fn why_missing(reply: &Reply) -> String {
    match &reply.answer {
        None => format!("{} is down", reply.replica.name),
        Some(Err(problem)) => problem.message(),
        Some(Ok(response)) => match serde_json::from_slice::<ReplicaError>(response.body()) {
            Ok(ReplicaError { error }) => error,
            Err(_) => format!("{} answered {}", reply.replica.name, response.status()),
        },
    }
}

/// A replica of another release, perhaps.
fn unreadable(name: &str, error: &(dyn std::error::Error + 'static)) -> String {
    tracing::warn!(replica = name, error = %problem::Chain(error), "the statistics of a replica cannot be read, and are not in the sums");
    format!("the figures of {name} cannot be read")
}

/// Sorts by name and number: of two numbers the longer one is greater.
fn key(name: &str, version: &str) -> (String, usize, String) {
    (name.to_owned(), version.len(), version.to_owned())
}

fn add_up<K: Ord, F>(sums: &mut BTreeMap<K, F>, key: K, figures: F, add: impl FnOnce(&mut F, &F)) {
    match sums.entry(key) {
        Entry::Occupied(mut sum) => add(sum.get_mut(), &figures),
        Entry::Vacant(place) => drop(place.insert(figures)),
    }
}

// === impl Figures ===

impl Figures {
    fn add(&mut self, other: &Self) {
        self.last_inference = self.last_inference.max(other.last_inference);
        self.inference_count = self.inference_count.saturating_add(other.inference_count);
        self.execution_count = self.execution_count.saturating_add(other.execution_count);
        for (what, durations) in &other.inference_stats {
            let sum = self.inference_stats.entry(what.clone()).or_default();
            sum.count = sum.count.saturating_add(durations.count);
            sum.ns = sum.ns.saturating_add(durations.ns);
        }
    }
}

fn add_statistics(sum: &mut ModelStatistics, other: &ModelStatistics) {
    sum.last_inference = sum.last_inference.max(other.last_inference);
    sum.inference_count = sum.inference_count.saturating_add(other.inference_count);
    sum.execution_count = sum.execution_count.saturating_add(other.execution_count);
    if let Some(durations) = &other.inference_stats {
        add_durations(sum.inference_stats.get_or_insert_default(), durations);
    }
}

fn add_durations(sum: &mut InferStatistics, other: &InferStatistics) {
    let pairs = [
        (&mut sum.success, &other.success),
        (&mut sum.fail, &other.fail),
        (&mut sum.queue, &other.queue),
        (&mut sum.compute_input, &other.compute_input),
        (&mut sum.compute_infer, &other.compute_infer),
        (&mut sum.compute_output, &other.compute_output),
        (&mut sum.cache_hit, &other.cache_hit),
        (&mut sum.cache_miss, &other.cache_miss),
    ];
    for (sum, other) in pairs {
        if let Some(other) = other {
            let sum = sum.get_or_insert_default();
            sum.count = sum.count.saturating_add(other.count);
            sum.ns = sum.ns.saturating_add(other.ns);
        }
    }
}
