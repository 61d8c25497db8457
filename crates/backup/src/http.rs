//! `/api/backups`.

use authz::Principal;
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use problem::{Api, Kind, Problem};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    progress::Phase,
    run::{Run, Verdict},
    set_name::SetName,
    worker::{Worker, refuse},
};

/// A run, as callers see it. `reason` says why a set is INVALID, `error` why a run failed.
#[derive(Serialize)]
pub struct RunBody {
    id: Uuid,
    kind: &'static str,
    state: &'static str,
    set: Option<SetName>,
    verdict: Option<&'static str>,
    reason: Option<String>,
    error: Option<String>,
    requested_by: String,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
    size_bytes: Option<u64>,
    attempt: u32,
    phase: Option<&'static str>,
    bytes_done: u64,
    bytes_expected: Option<u64>,
    cancelled_by: Option<String>,
}

/// The latest runs.
#[derive(Serialize)]
pub struct RunsBody {
    runs: Vec<RunBody>,
}

type Begun = (StatusCode, [(HeaderName, String); 1], Json<RunBody>);

/// `POST /api/backups`: begins to build a set.
pub async fn create(State(worker): State<Worker>, Extension(principal): Extension<Principal>) -> Result<Begun, Api> {
    Ok(begun(worker.begin_create(principal.to_string()).await?))
}

/// `POST /api/backups/{name}/verify`: begins to verify a set.
pub async fn verify(
    State(worker): State<Worker>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Begun, Api> {
    let set: SetName = name.parse().map_err(|error| Problem::new(Kind::NotFound, format!("{error}")).field("name"))?;
    Ok(begun(worker.begin_verify(set, principal.to_string()).await?))
}

/// `GET /api/backups`: the last hundred runs.
pub async fn list(State(worker): State<Worker>) -> Result<Json<RunsBody>, Api> {
    let runs = worker.store().runs().await.map_err(refuse)?;
    Ok(Json(RunsBody { runs: runs.into_iter().map(RunBody::from).collect() }))
}

/// `GET /api/backups/{id}`: one run.
pub async fn get(State(worker): State<Worker>, Path(id): Path<String>) -> Result<Json<RunBody>, Api> {
    let run = worker.store().run(run_id(&id)?).await.map_err(refuse)?.ok_or_else(no_such_run)?;
    Ok(Json(run.into()))
}

/// `POST /api/backups/{id}/cancel`: ends a run that is under way. It is no `DELETE`: the run stays, and so does every set.
pub async fn cancel(
    State(worker): State<Worker>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Begun, Api> {
    let run = worker.cancel(run_id(&id)?, &principal.to_string()).await?.ok_or_else(no_such_run)?;
    Ok(begun(run))
}

fn run_id(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| no_such_run())
}

fn no_such_run() -> Problem {
    Problem::new(Kind::NotFound, "there is no such run")
}

fn begun(run: Run) -> Begun {
    let location = format!("/api/backups/{}", run.id);
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(run.into()))
}

impl From<Run> for RunBody {
    fn from(run: Run) -> Self {
        Self {
            id: run.id,
            kind: run.kind.as_str(),
            state: run.state.into(),
            set: run.set,
            verdict: run.verdict.as_ref().map(Verdict::as_str),
            reason: match run.verdict {
                Some(Verdict::Invalid(reasons)) => Some(reasons.join("; ")),
                Some(Verdict::Valid) | None => None,
            },
            error: run.error,
            requested_by: run.requested_by,
            started_at: run.started_at,
            finished_at: run.finished_at,
            size_bytes: run.size_bytes,
            attempt: run.attempt,
            phase: run.reached.phase.map(Phase::as_str),
            bytes_done: run.reached.bytes_done,
            bytes_expected: run.reached.bytes_expected,
            cancelled_by: run.cancelled_by,
        }
    }
}
