//! Answers to heads that never become a request: written by the front itself, as HTTP/1.1 text.

use http::StatusCode;
use problem::{Form, Kind, Problem};
use serde_json::json;

use super::head::{self, HeadError};

/// The answer to a head that is refused, in the form of its route as far as it is known.
pub(super) fn for_head_error(error: HeadError, received: &[u8]) -> Vec<u8> {
    let status = match error {
        HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    render(status, &error.to_string(), received)
}

/// The answer to a head that did not end in time.
pub(super) fn for_head_timeout(received: &[u8]) -> Vec<u8> {
    render(StatusCode::REQUEST_TIMEOUT, "the request header did not end in time", received)
}

fn render(status: StatusCode, detail: &str, received: &[u8]) -> Vec<u8> {
    let form = Form::of(head::path_of_unfinished(received), None);
    let (content_type, body) = match form {
        Form::Inference => ("application/json", json!({ "error": detail }).to_string()),
        Form::Registry => ("application/json", json!({ "error_code": "BAD_REQUEST", "message": detail }).to_string()),
        Form::Api | Form::Grpc => ("application/problem+json", problem_json(status, detail)),
    };
    http1_response(status, content_type, &[], &body)
}

/// 431 and 408 are not kinds of problem that a service can have, so they are not in that closed list.
fn problem_json(status: StatusCode, detail: &str) -> String {
    let kind =
        if status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE { Kind::TooLarge } else { Kind::InvalidArgument };
    let response = Problem::new(kind, detail).response(Form::Api);
    let mut body: serde_json::Value = serde_json::from_slice(response.body()).unwrap_or_default();
    if let Some(body) = body.as_object_mut() {
        body.insert("status".into(), json!(status.as_u16()));
    }
    body.to_string()
}

/// A whole HTTP/1.1 response that ends its connection.
pub(super) fn http1_response(status: StatusCode, content_type: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n",
        status.as_u16(),
        body.len()
    );
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}
