//! `/api/sla`: figures for every caller, details for callers with `read-sla`.

use authz::Principal;
use axum::{
    Extension, Json,
    extract::{Path, State},
};
use policy::Action;
use problem::Api;
use serde::Serialize;
use slo::Counts;
use time::OffsetDateTime;

use crate::{
    app::{App, Detail, Figures},
    minute::Minute,
    store::SourceRun,
    summary::{Summary, milliseconds},
    totals::HourFigures,
};

/// What `GET /api/sla/{service}/current` answers.
#[derive(Serialize)]
pub struct Current {
    service: String,
    #[serde(flatten)]
    summary: Summary,
    #[serde(with = "time::serde::rfc3339")]
    computed_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<DetailBody>,
}

#[derive(Serialize)]
struct DetailBody {
    requests: CountsBody,
    minutes_known: u64,
    minutes_unknown: u64,
    /// The last 48.
    hours: Vec<HourBody>,
    /// The last 60; those without a report are not among them.
    minutes: Vec<MinuteBody>,
    sources: Vec<SourceRun>,
}

#[derive(Serialize)]
struct CountsBody {
    good: u64,
    bad: u64,
    shed: u64,
    client_error: u64,
    slow: u64,
}

#[derive(Serialize)]
struct HourBody {
    #[serde(with = "time::serde::rfc3339")]
    hour: OffsetDateTime,
    minutes_known: usize,
    requests: CountsBody,
    response_time_p95: Option<f64>,
}

#[derive(Serialize)]
struct MinuteBody {
    #[serde(with = "time::serde::rfc3339")]
    minute: OffsetDateTime,
    requests: CountsBody,
    response_time_p95: Option<f64>,
}

/// `GET /api/sla/{service}/current`.
pub async fn current(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Path(service): Path<String>,
) -> Result<Json<Current>, Api> {
    let figures = app.current(&service).await?;
    let detail = if app.guard().allows(&principal, Action::ReadSla) {
        Some(DetailBody::of(&figures, app.detail(&service).await?))
    } else {
        None
    };
    Ok(Json(Current { service, summary: figures.summary.clone(), computed_at: figures.computed_at, detail }))
}

// === impl DetailBody ===

impl DetailBody {
    fn of(figures: &Figures, detail: Detail) -> Self {
        let totals = figures.summary.totals;
        Self {
            requests: totals.counts.into(),
            minutes_known: totals.minutes_known,
            minutes_unknown: totals.minutes_unknown,
            hours: figures.hours.iter().map(HourBody::from).collect(),
            minutes: detail.minutes.iter().map(MinuteBody::from).collect(),
            sources: detail.sources,
        }
    }
}

impl From<Counts> for CountsBody {
    fn from(counts: Counts) -> Self {
        let Counts { good, bad, shed, client_error, slow } = counts;
        Self { good, bad, shed, client_error, slow }
    }
}

impl From<&HourFigures> for HourBody {
    fn from(hour: &HourFigures) -> Self {
        Self {
            hour: hour.start,
            minutes_known: hour.minutes.iter().flatten().count(),
            requests: hour.counts.into(),
            response_time_p95: hour.p95_us.map(milliseconds),
        }
    }
}

impl From<&Minute> for MinuteBody {
    fn from(minute: &Minute) -> Self {
        Self {
            minute: minute.start,
            requests: minute.counts.into(),
            response_time_p95: minute.latencies.p95_us().map(milliseconds),
        }
    }
}
