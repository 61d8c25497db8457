//! The four forms an error can take on the wire.

use axum_core::{
    body::Body,
    response::{IntoResponse, Response as AxumResponse},
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::{FieldError, Kind, Problem};

/// How an error is written, which depends on the route and never on the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/problem+json`, RFC 9457.
    Api,
    /// The inference protocol's `{"error": "…"}`.
    Inference,
    /// MLflow's `{"error_code": "…", "message": "…"}`, which its clients show.
    Registry,
    /// gRPC: HTTP 200 with the status in the headers ("trailers only").
    Grpc,
}

/// A problem as the answer of an `/api/*` handler.
#[derive(Debug)]
pub struct Api(pub Problem);

/// A problem as the answer of a `/v2/*` handler.
#[derive(Debug)]
pub struct Inference(pub Problem);

// === impl Form ===

impl Form {
    /// The form of a route. Where the path decides, the `Content-Type`, which is the client's to choose, does not.
    pub fn of(path: &str, content_type: Option<&HeaderValue>) -> Self {
        if is_under("/api/2.0/mlflow", path) || is_under("/api/2.0/mlflow-artifacts", path) {
            return Self::Registry;
        }
        if is_under("/api", path) {
            return Self::Api;
        }
        if is_under("/v2", path) {
            return Self::Inference;
        }
        let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc { Self::Grpc } else { Self::Api }
    }
}

fn is_under(root: &str, path: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(crate) fn render(problem: &Problem, form: Form) -> Response<Bytes> {
    let kind = problem.kind();
    let mut response = match form {
        Form::Api => json_response(kind, "application/problem+json", &api_body(problem)),
        Form::Inference => json_response(kind, "application/json", &json!({ "error": problem.message() })),
        Form::Registry => json_response(kind, "application/json", &registry_body(problem)),
        Form::Grpc => grpc_response(problem),
    };
    let headers = response.headers_mut();
    // Of HTTP and not of gRPC.
    if let Some((name, value)) = problem.http_header().filter(|_| form != Form::Grpc) {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(seconds) = problem.retry_after_s() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(challenge) = problem.challenge() {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

fn api_body(problem: &Problem) -> serde_json::Value {
    let kind = problem.kind();
    let mut body = serde_json::Map::new();
    body.insert("type".into(), json!(format!("urn:rampart:problem:{kind}")));
    body.insert("title".into(), json!(kind.title()));
    body.insert("status".into(), json!(kind.http_status().as_u16()));
    body.insert("detail".into(), json!(problem.message()));
    if let Some(field) = problem.field_name() {
        body.insert("field".into(), json!(field));
    }
    if let Some(offset) = problem.byte_offset() {
        body.insert("offset".into(), json!(offset));
    }
    if !problem.field_errors().is_empty() {
        body.insert("errors".into(), problem.field_errors().iter().map(FieldError::to_json).collect());
    }
    body.into()
}

fn registry_body(problem: &Problem) -> serde_json::Value {
    // Names out of MLflow's own list: to others its clients do not know how to react.
    let code = match problem.kind() {
        Kind::InvalidArgument | Kind::TooLarge | Kind::UnsupportedMediaType => "INVALID_PARAMETER_VALUE",
        Kind::Unauthenticated => "UNAUTHENTICATED",
        Kind::PermissionDenied => "PERMISSION_DENIED",
        Kind::NotFound | Kind::MethodNotAllowed => "ENDPOINT_NOT_FOUND",
        Kind::Conflict | Kind::PreconditionFailed => "RESOURCE_CONFLICT",
        Kind::ResourceExhausted => "REQUEST_LIMIT_EXCEEDED",
        Kind::Unavailable | Kind::DeadlineExceeded => "TEMPORARILY_UNAVAILABLE",
        Kind::Internal => "INTERNAL_ERROR",
    };
    json!({ "error_code": code, "message": problem.message() })
}

fn json_response(kind: Kind, content_type: &'static str, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = kind.http_status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn grpc_response(problem: &Problem) -> Response<Bytes> {
    let status = tonic::Status::new(problem.grpc_code(), problem.short_message());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if status.add_header(response.headers_mut()).is_err() {
        // Only a message that cannot be a header fails; the code alone always can.
        response.headers_mut().insert("grpc-status", HeaderValue::from(problem.grpc_code() as i32));
    }
    response
}

// === impl Api, Inference ===

impl IntoResponse for Api {
    fn into_response(self) -> AxumResponse {
        self.0.response(Form::Api).map(Body::from)
    }
}

impl IntoResponse for Inference {
    fn into_response(self) -> AxumResponse {
        self.0.response(Form::Inference).map(Body::from)
    }
}

impl From<Problem> for Api {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Problem> for Inference {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn every_kind_has_the_same_status_in_body_and_head() {
        for kind in Kind::ALL.iter().copied() {
            let response = Problem::new(kind, "x").response(Form::Api);
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["status"], response.status().as_u16());
        }
    }

    #[test]
    fn form_follows_the_route() {
        let grpc = HeaderValue::from_static("application/grpc+proto");
        assert_eq!(Form::of("/v2/models/m/infer", None), Form::Inference);
        assert_eq!(Form::of("/v2", None), Form::Inference);
        assert_eq!(Form::of("/v20", None), Form::Api);
        assert_eq!(Form::of("/api/admin/users", None), Form::Api);
        assert_eq!(Form::of("/api/2.0/mlflow/runs/search", Some(&grpc)), Form::Registry);
        assert_eq!(Form::of("/api/2.0/mlflow-artifacts/artifacts", None), Form::Registry);
        assert_eq!(Form::of("/api/2.0/mlflow-other", None), Form::Api);
        assert_eq!(Form::of("/inference.GRPCInferenceService/ModelInfer", Some(&grpc)), Form::Grpc);
        assert_eq!(Form::of("/apis.v1.Service/Method", Some(&grpc)), Form::Grpc);
    }

    #[test]
    fn a_content_type_does_not_turn_a_401_into_a_200() {
        let grpc = HeaderValue::from_static("application/grpc");
        for path in ["/api", "/api/", "/api/admin/users"] {
            assert_eq!(Form::of(path, Some(&grpc)), Form::Api, "{path}");
        }
        assert_eq!(Form::of("/v2", Some(&grpc)), Form::Inference);
        assert_eq!(Form::of("/v2/models/m/infer", Some(&grpc)), Form::Inference);
    }

    #[test]
    fn grpc_problem_is_trailers_only_with_code_and_message() {
        let response = Problem::new(Kind::NotFound, "no model \"x\"\n").response(Form::Grpc);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "5");
        assert!(response.headers().contains_key("grpc-message"));
    }

    #[test]
    fn a_wrong_method_names_those_that_are_right() {
        let problem = Problem::wrong_method(&Method::PUT, &[Method::GET, Method::POST]);
        for form in [Form::Api, Form::Inference, Form::Registry] {
            let response = problem.response(form);
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD, POST");
            assert!(String::from_utf8_lossy(response.body()).contains("PUT"));
        }
        let response = problem.response(Form::Grpc);
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
        assert!(!response.headers().contains_key(header::ALLOW));
    }

    #[test]
    fn an_unknown_route_is_404_or_unimplemented() {
        let problem = Problem::unknown_route("nothing here");
        assert_eq!(problem.response(Form::Inference).status(), StatusCode::NOT_FOUND);
        assert_eq!(problem.response(Form::Grpc).headers()["grpc-status"], "12");
    }

    #[test]
    fn each_wrong_field_is_listed_where_the_form_has_a_place_for_it() {
        let errors = vec![FieldError::new("age", "is missing").row(3), FieldError::new("port", "is unknown")];
        let problem = Problem::new(Kind::InvalidArgument, "2 faults").errors(errors);
        let body: serde_json::Value = serde_json::from_slice(problem.response(Form::Api).body()).unwrap();
        let wanted = json!([
            { "field": "age", "row": 3, "detail": "is missing" },
            { "field": "port", "detail": "is unknown" },
        ]);
        assert_eq!(body["errors"], wanted);
        let inference = problem.response(Form::Inference);
        assert_eq!(inference.body(), &json!({ "error": "2 faults" }).to_string());
    }

    #[test]
    fn unavailable_has_retry_after() {
        for form in [Form::Api, Form::Inference] {
            assert_eq!(Problem::new(Kind::Unavailable, "x").response(form).headers()["retry-after"], "1");
        }
    }
}
