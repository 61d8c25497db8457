//! Predictions by feature name: records as JSON or CSV in, a prediction for each out.
//!
//! A face beside the inference protocol for callers who have rows of a table and not tensors. What a record must have follows from the
//! model's signature alone ([`layout`]); nothing is converted, filled in or translated: a value that is not what the model takes is
//! refused, and named with its row. From the body on it is the way of `/v2/…/infer`, with the same limits.

mod answer;
mod arrays;
mod csv;
mod faults;
mod half_text;
mod json;
mod layout;
pub(crate) mod openapi;
mod schema;
mod table;
mod values;

use axum::{
    extract::{Query, Request, State},
    response::Response,
};
use bytes::Bytes;
use engine::{Signature, tensor::Tensor};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use model_repository::Model;
use problem::{Api, Kind, Problem};
use serde::Deserialize;

use crate::{
    app::App,
    inference::Call,
    protocol::{http_call::HttpCall, target::Target},
};
use answer::Reply;
use layout::Layout;
use table::Table;

pub(crate) use arrays::Array;
pub(crate) use table::ROWS_MAX;

/// An answer by name may take so many times what its outputs may in their binary form.
const NAMES_FACTOR: usize = 4;

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Csv,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PredictQuery {
    missing: Option<Missing>,
}

/// What becomes of missing values.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    Nan,
}

pub(crate) async fn predict(State(app): State<App>, target: Target, request: Request) -> Result<Response, Api> {
    let format = format(request.headers())?;
    let may_miss = may_miss(request.uri())?;
    let read = move |body: Bytes, signature: &Signature| read(&body, format, may_miss, signature);
    let bytes_max = app.limits.answer_bytes_max.saturating_mul(NAMES_FACTOR);
    let write = move |reply: Reply, model: &Model, outputs: &[Tensor]| answer::write(reply, model, outputs, bytes_max);
    Ok(HttpCall::read(&app, &target, request).await?.answer(&app, read, write).await?)
}

pub(crate) async fn schema(State(app): State<App>, target: Target) -> Result<Response, Api> {
    let model = app.repository.resolve(&target.model, &target.version)?;
    let schema = schema::of(&model)?;
    let mut response = Response::new(schema.to_string().into());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/schema+json"));
    Ok(response)
}

/// The tensors of records that are in a file. Floats may be missing: a golden example has a form for it.
pub(crate) fn read_records(bytes: &[u8], format: Format, signature: &Signature) -> Result<Vec<Tensor>, Problem> {
    read(bytes, format, true, signature).map(|(call, _)| call.inputs)
}

/// The tensors of records that are in arrays.
pub(crate) fn read_arrays(arrays: &[Array], signature: &Signature) -> Result<Vec<Tensor>, Problem> {
    let layout = Layout::new(signature)?;
    let mut table = Table::new(&layout, arrays.iter().map(|array| array.tensor.data().len()).sum());
    table.may_miss = true;
    // What ended the reading is in the table.
    arrays::read(arrays, &layout, &mut table).unwrap_or(());
    table.finish().map(|(inputs, _)| inputs)
}

/// The names in the first line of a CSV file.
pub(crate) fn csv_header(bytes: &[u8]) -> Result<Vec<String>, ::csv::Error> {
    let mut reader = ::csv::ReaderBuilder::new().from_reader(bytes);
    Ok(reader.headers()?.iter().map(str::to_owned).collect())
}

/// Takes a body apart.
fn read(body: &[u8], format: Format, may_miss: bool, signature: &Signature) -> Result<(Call, Reply), Problem> {
    let layout = Layout::new(signature)?;
    let mut table = Table::new(&layout, body.len());
    table.may_miss = may_miss;
    match format {
        // What ended the reading is in the table.
        Format::Csv => csv::read(body, &mut table).unwrap_or(()),
        Format::Json => match json::read(body, &mut table) {
            Err(fault) if !table.faults.has_stopped() => return Err(fault.into()),
            _ => {}
        },
    }
    let (inputs, rows) = table.finish()?;
    let call = Call { inputs, wanted: (0..signature.outputs.len()).collect(), timeout: None };
    Ok((call, Reply { rows, has_rows: layout.has_rows() }))
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let refused = |detail: &str| {
        let detail = format!("{detail}; application/json and text/csv are read here");
        Problem::new(Kind::UnsupportedMediaType, detail).field(header::CONTENT_TYPE.as_str())
    };
    let value = headers.get(header::CONTENT_TYPE).ok_or_else(|| refused("is missing"))?;
    let value = value.to_str().map_err(|_| refused("is not readable"))?;
    let mut parts = value.split(';').map(str::trim);
    let format = match parts.next().unwrap_or_default() {
        json if json.eq_ignore_ascii_case("application/json") => Format::Json,
        csv if csv.eq_ignore_ascii_case("text/csv") => Format::Csv,
        _ => return Err(refused("is another media type")),
    };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim_matches('"');
        if name.eq_ignore_ascii_case("charset")
            && !["utf-8", "us-ascii"].iter().any(|it| value.eq_ignore_ascii_case(it))
        {
            return Err(refused("names a charset other than UTF-8"));
        }
        if name.eq_ignore_ascii_case("header") && value.eq_ignore_ascii_case("absent") {
            return Err(refused("says that the names of the features are not there"));
        }
    }
    Ok(format)
}

fn may_miss(uri: &Uri) -> Result<bool, Problem> {
    let query = Query::<PredictQuery>::try_from_uri(uri)
        .map_err(|_| Problem::new(Kind::InvalidArgument, "can only be missing=nan").field("the query"))?;
    Ok(matches!(query.missing, Some(Missing::Nan)))
}

#[cfg(test)]
mod tests;
