//! Bodies and queries, parsed strictly: an error names the field where the text parses, and the byte where it does not.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use problem::{Kind, Problem, json_error_offset};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

/// The largest body that any route takes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields of one form or query.
const FIELDS_MAX: usize = 32;

/// A body, whole.
#[derive(Debug)]
pub struct Payload(pub Bytes);

// === impl Payload ===

impl<S: Sync> FromRequest<S> for Payload {
    type Rejection = problem::Api;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, problem::Api> {
        if is_packed(request.headers()) {
            return Err(Problem::wrong_coding("is not undone here; send the body as it is", "identity").into());
        }
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
        let Ok(body) = timeout(BODY_TIMEOUT, body).await else {
            return Err(Problem::new(Kind::DeadlineExceeded, "the body took too long to arrive").into());
        };
        match body {
            Ok(body) => Ok(Self(body.to_bytes())),
            Err(error) if is_too_large(error.as_ref()) => {
                Err(Problem::new(Kind::TooLarge, format!("the body exceeds {BODY_BYTES_MAX} bytes")).into())
            }
            Err(_) => Err(Problem::new(Kind::InvalidArgument, "the body ended before it was complete").into()),
        }
    }
}

impl Payload {
    /// The body as a JSON object of exactly this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        // serde would also take an array of the members' values.
        let begins = self.0.iter().position(|byte| !byte.is_ascii_whitespace());
        if let Some(offset) = begins.filter(|at| self.0.get(*at) != Some(&b'{')) {
            return Err(Problem::new(Kind::InvalidArgument, "the body is not a JSON object").offset(offset as u64));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&self.0);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            self.json_problem(&path, error.inner())
        })?;
        deserializer.end().map_err(|error| self.json_problem(".", &error))?;
        Ok(value)
    }

    /// The body as JSON if it says so, else as a form.
    pub fn form_or_json<T: DeserializeOwned>(&self, headers: &HeaderMap) -> Result<T, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
        let media_type = content_type.as_deref().unwrap_or_default().split(|byte| *byte == b';').next();
        match media_type.unwrap_or_default().trim_ascii() {
            b"application/json" => self.json(),
            b"" | b"application/x-www-form-urlencoded" => fields(&self.0),
            _ => {
                Err(Problem::new(Kind::InvalidArgument, "wants application/x-www-form-urlencoded or application/json")
                    .field("content-type"))
            }
        }
    }

    fn json_problem(&self, path: &str, error: &serde_json::Error) -> Problem {
        if !error.is_data() {
            let offset = json_error_offset(&self.0, error);
            return Problem::new(Kind::InvalidArgument, "the body is not JSON").offset(offset);
        }
        data_problem(path, error)
    }
}

/// A form or query as a value: every field known, none twice.
pub(super) fn fields<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let mut members = serde_json::Map::new();
    for (name, value) in url::form_urlencoded::parse(text) {
        if members.len() >= FIELDS_MAX {
            return Err(Problem::new(Kind::InvalidArgument, format!("there are more than {FIELDS_MAX} fields")));
        }
        let name = name.into_owned();
        if members.insert(name.clone(), value.into()).is_some() {
            return Err(Problem::new(Kind::InvalidArgument, "duplicate field").field(name));
        }
    }
    serde_path_to_error::deserialize(serde_json::Value::from(members))
        .map_err(|error| data_problem(&error.path().to_string(), error.inner()))
}

fn data_problem(path: &str, error: &serde_json::Error) -> Problem {
    let (field, what) = describe(path, &error.to_string());
    let problem = Problem::new(Kind::InvalidArgument, what);
    if let Some(field) = field { problem.field(field) } else { problem }
}

/// A member that may be left out but not be null.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// The field that serde's message is about, and the message without it and without the position, which is known better.
fn describe(path: &str, message: &str) -> (Option<String>, String) {
    let what = message.split(" at line ").next().unwrap_or(message);
    let quoted = || what.split('`').nth(1).map(str::to_owned);
    let named = ["unknown field", "missing field", "duplicate field"].into_iter().find(|start| what.starts_with(start));
    let Some(named) = named else {
        return ((path != ".").then(|| path.to_owned()), what.to_owned());
    };
    let what = match named {
        "unknown field" => {
            what.split_once(", ").map_or("unknown field".to_owned(), |(_, known)| format!("unknown field, {known}"))
        }
        named => named.to_owned(),
    };
    // The path ends with the unknown member itself, or with the object that the member is missing in.
    let parent = path.rsplit_once('.').map(|(parent, _)| parent).filter(|parent| !parent.is_empty());
    let field = quoted().map(|member| parent.map_or(member.clone(), |parent| format!("{parent}.{member}")));
    (field, what)
}

/// Whether a content coding is named, in any case and as a list (RFC 9110, 8.4), beside the word for none.
fn is_packed(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        name: String,
        #[serde(default, deserialize_with = "present")]
        roles: Option<Vec<String>>,
    }

    fn json(text: &str) -> Result<Shape, Problem> {
        Payload(Bytes::copy_from_slice(text.as_bytes())).json()
    }

    #[test]
    fn an_error_names_the_field_where_the_body_parses() {
        for (text, field) in [
            (r#"{"name": "a", "nam": 1}"#, "nam"),
            (r#"{"roles": []}"#, "name"),
            (r#"{"name": 1}"#, "name"),
            (r#"{"name": "a", "name": "b"}"#, "name"),
            (r#"{"name": "a", "roles": null}"#, "roles"),
            (r#"{"name": "a", "roles": ["x", 7]}"#, "roles[1]"),
        ] {
            let problem = json(text).unwrap_err();
            assert_eq!(problem.field_name(), Some(field), "{text}: {problem}");
            assert_eq!(problem.kind(), Kind::InvalidArgument);
            assert!(!problem.message().contains(" at line "), "{problem}");
        }
        assert_eq!(json("7").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(json(r#"{"name": "a", "roles": ["x"]}"#).unwrap().roles.unwrap(), ["x"]);
    }

    #[test]
    fn an_error_names_the_byte_where_it_does_not() {
        for (text, offset) in [("", 0), ("{", 0), (r#"{"name": NaN}"#, 9), (r#"{"name": "a"} x"#, 14)] {
            let problem = json(text).unwrap_err();
            let found = problem.byte_offset().unwrap();
            assert!(found.abs_diff(offset) <= 1, "{text}: {problem}");
        }
        let deep = format!("{{\"x\": {}", "[".repeat(10_000));
        assert_eq!(json(&deep).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(json(r#"["a", []]"#).unwrap_err().byte_offset(), Some(0));
        assert!(Payload(Bytes::from_static(b"{\"name\": \"\xff\"}")).json::<Shape>().is_err());
    }

    #[test]
    fn forms_know_their_fields_too() {
        assert_eq!(fields::<Shape>(b"name=a%20b").unwrap().name, "a b");
        assert_eq!(fields::<Shape>(b"name=a&name=b").unwrap_err().field_name(), Some("name"));
        assert_eq!(fields::<Shape>(b"").unwrap_err().field_name(), Some("name"));
        assert_eq!(fields::<Shape>(b"name=a&x=1").unwrap_err().field_name(), Some("x"));
        assert!(fields::<Shape>("a=1&".repeat(10_000).as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_packed_body_is_refused_with_what_is_read() {
        let read = async |coding: &str| {
            let request = Request::post("/").header("content-encoding", coding).body(Body::from("{}")).unwrap();
            Payload::from_request(request, &()).await
        };
        for coding in ["", "identity", "IDENTITY, identity"] {
            assert_eq!(read(coding).await.unwrap().0, "{}", "{coding}");
        }
        for coding in ["gzip", "identity, br", "GZIP"] {
            let problem = read(coding).await.unwrap_err().0;
            assert_eq!(problem.kind(), Kind::UnsupportedMediaType, "{coding}");
            let response = problem.response(problem::Form::Api);
            assert_eq!(response.headers()["accept-encoding"], "identity", "{coding}");
        }
    }

    #[test]
    fn the_media_type_decides_between_form_and_json() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            headers
        };
        let body = Payload(Bytes::from_static(b"{\"name\": \"a\"}"));
        assert!(body.form_or_json::<Shape>(&with("Application/JSON; charset=utf-8")).is_ok());
        assert!(body.form_or_json::<Shape>(&HeaderMap::new()).is_err());
        assert_eq!(body.form_or_json::<Shape>(&with("text/plain")).unwrap_err().field_name(), Some("content-type"));
        assert!(Payload(Bytes::from_static(b"name=a")).form_or_json::<Shape>(&HeaderMap::new()).is_ok());
    }
}
