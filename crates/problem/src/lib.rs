#![doc = include_str!("../README.md")]

mod field_error;
mod form;
mod kind;
pub mod openapi;

use std::{error::Error, fmt, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, header};

pub use field_error::FieldError;
pub use form::{Api, Form, Inference};
pub use kind::Kind;

/// The longest message in a header.
const HEADER_MESSAGE_BYTES_MAX: usize = 1024;

/// An error as a caller will see it; the cause is for the log only.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    field: Option<String>,
    offset: Option<u64>,
    errors: Box<[FieldError]>,
    /// Whole seconds.
    retry_after: Option<NonZeroU32>,
    /// Behind a pointer, as few problems have one.
    http_header: Option<Box<(HeaderName, HeaderValue)>>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    is_unknown_route: bool,
    is_without_token: bool,
}

// === impl Problem ===

impl Problem {
    /// A problem with the message for the caller.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            kind,
            detail,
            field: None,
            offset: None,
            errors: Box::default(),
            retry_after: None,
            http_header: None,
            source: None,
            is_unknown_route: false,
            is_without_token: false,
        }
    }

    /// No such route: 404 in HTTP, but UNIMPLEMENTED in gRPC, where NOT_FOUND is about the object that a method was asked for.
    pub fn unknown_route(detail: impl Into<String>) -> Self {
        Self { is_unknown_route: true, ..Self::new(Kind::NotFound, detail) }
    }

    /// There is no token: 401 that says where one comes from.
    pub fn missing_token() -> Self {
        Self::without_token(
            "this needs a valid bearer token: `Authorization: Bearer <token>`, from POST /api/auth/token",
        )
    }

    /// What came in the place of a token is none: 401.
    pub fn no_bearer_token() -> Self {
        Self::without_token("the Authorization header is not `Bearer <token>`")
    }

    /// 401 whose challenge has no error code: no token was sent that could be wrong (RFC 6750, 3.1).
    fn without_token(detail: &str) -> Self {
        Self { is_without_token: true, ..Self::new(Kind::Unauthenticated, detail) }
    }

    /// This path has other methods: 405 with `Allow`, where `GET` stands for `HEAD` too (RFC 9110, 15.5.6).
    pub fn wrong_method(method: &Method, allowed: &[Method]) -> Self {
        let with_head =
            |method: &Method| if *method == Method::GET { "GET, HEAD".to_owned() } else { method.to_string() };
        let allowed = allowed.iter().map(with_head).collect::<Vec<_>>().join(", ");
        let problem =
            Self::new(Kind::MethodNotAllowed, format!("{method} is not a method of this path; it has {allowed}"));
        match HeaderValue::try_from(allowed) {
            Ok(allowed) => problem.with_header(header::ALLOW, allowed),
            Err(_) => problem,
        }
    }

    /// The body is packed in a way that is not undone here: 415 with the codings that are (RFC 7694).
    pub fn wrong_coding(detail: impl Into<String>, accepted: &'static str) -> Self {
        Self::new(Kind::UnsupportedMediaType, detail)
            .field(header::CONTENT_ENCODING.as_str())
            .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))
    }

    /// A fault of the platform. The cause is logged now under an id, and the id is all that the caller sees.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let cause: Arc<dyn Error + Send + Sync> = Arc::from(cause.into());
        let id = uuid::Uuid::new_v4();
        tracing::error!(error_id = %id, error = %Chain(cause.as_ref()), "internal error");
        Self { source: Some(cause), ..Self::new(Kind::Internal, format!("internal error, see the log for {id}")) }
    }

    /// A dependency is away; the caller may try again after a second.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after(Duration::from_secs(1))
    }

    /// Names the field of the request that is wrong, e.g. `inputs[0].shape`.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the byte of the body at which it stopped making sense, from 0.
    #[must_use]
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = Some(bytes);
        self
    }

    /// Names every field that is wrong, for a request with many of them.
    #[must_use]
    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors.into_boxed_slice();
        self
    }

    /// When to try again; sent as `Retry-After`, in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
        self.retry_after = Some(NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN));
        self
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.http_header = Some(Box::new((name, value)));
        self
    }

    /// Keeps the cause for the log. Callers never see it.
    #[must_use]
    pub fn source(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(cause.into()));
        self
    }

    /// What kind of problem this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The gRPC code: the kind's, but for an unknown route.
    pub fn grpc_code(&self) -> tonic::Code {
        if self.is_unknown_route { tonic::Code::Unimplemented } else { self.kind.grpc_code() }
    }

    /// The message for the caller, with field and offset where they are known.
    pub fn message(&self) -> String {
        let mut message = match &self.field {
            Some(field) => format!("{field}: {}", self.detail),
            None => self.detail.clone(),
        };
        if let Some(offset) = self.offset {
            message.push_str(&format!(" (at byte {offset})"));
        }
        message
    }

    /// The message cut to what a header can carry: gRPC puts it there, and callers refuse headers that are too long.
    pub(crate) fn short_message(&self) -> String {
        let mut message = self.message();
        if message.len() > HEADER_MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(HEADER_MESSAGE_BYTES_MAX));
            message.push('…');
        }
        message
    }

    /// The field that is wrong, if the body parsed that far.
    pub fn field_name(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The byte offset at which the body stopped making sense.
    pub fn byte_offset(&self) -> Option<u64> {
        self.offset
    }

    /// What a client is told of how to authenticate, in `WWW-Authenticate`.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Unauthenticated if self.is_without_token => Some("Bearer realm=\"rampart\""),
            Kind::Unauthenticated => Some("Bearer error=\"invalid_token\""),
            Kind::PermissionDenied => Some("Bearer error=\"insufficient_scope\""),
            _ => None,
        }
    }

    /// What an answer over HTTP has to say in its head.
    pub(crate) fn http_header(&self) -> Option<&(HeaderName, HeaderValue)> {
        self.http_header.as_deref()
    }

    /// Every field that is wrong, where there may be many.
    pub fn field_errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Whole seconds to wait, for `Retry-After`; unavailable and exhausted always have one.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self.retry_after {
            Some(seconds) => Some(seconds.get().into()),
            None if matches!(self.kind, Kind::Unavailable | Kind::ResourceExhausted) => Some(1),
            None => None,
        }
    }

    /// The answer in the form of its route. Logs the cause, if there is one that was not logged yet.
    pub fn response(&self, form: Form) -> http::Response<bytes::Bytes> {
        self.log();
        form::render(self, form)
    }

    fn log(&self) {
        if let Some(source) = self.source.as_deref()
            && self.kind != Kind::Internal
        {
            tracing::warn!(kind = %self.kind, error = %Chain(source), "{}", self.detail);
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<Problem> for tonic::Status {
    fn from(problem: Problem) -> Self {
        problem.log();
        let mut status = Self::new(problem.grpc_code(), problem.short_message());
        if let Some(seconds) = problem.retry_after_s() {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}

/// Prints an error and its causes on one line, `: ` between them.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The byte offset of a JSON error: serde_json knows line and column, people with an editor and machines want bytes.
pub fn json_error_offset(body: &[u8], error: &serde_json::Error) -> u64 {
    let line_start: usize =
        body.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let offset = line_start + error.column().saturating_sub(1);
    offset.min(body.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_of_a_json_error_is_the_byte_that_broke_it() {
        let body = b"{\n  \"a\": 1,\n  \"b\": x\n}";
        let error = serde_json::from_slice::<serde_json::Value>(body).unwrap_err();
        assert_eq!(body[usize::try_from(json_error_offset(body, &error)).unwrap()], b'x');
    }

    #[test]
    fn cause_is_never_part_of_the_message() {
        let problem = Problem::internal("the password is hunter2");
        assert!(!problem.message().contains("hunter2"));
        assert!(!String::from_utf8_lossy(problem.response(Form::Api).body()).contains("hunter2"));
        assert!(!tonic::Status::from(problem).message().contains("hunter2"));
    }

    #[test]
    fn what_goes_into_a_header_is_short() {
        let problem = Problem::new(Kind::InvalidArgument, "é".repeat(5000)).field("x");
        assert!(problem.message().len() > 10_000);
        assert_eq!(problem.short_message(), format!("x: {}…", "é".repeat(510)));
        assert_eq!(tonic::Status::from(problem.clone()).message(), problem.short_message());
        let header = problem.response(Form::Grpc).headers()["grpc-message"].len();
        assert!(header < 4 * HEADER_MESSAGE_BYTES_MAX, "{header}");
    }

    /// RFC 6750, 3.1: an error code is for a token that was sent.
    #[test]
    fn a_challenge_names_an_error_only_where_a_token_was_sent() {
        let challenge = |problem: Problem| {
            let head = problem.response(Form::Api).headers().clone();
            head.get(header::WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned())
        };
        let with = |kind| challenge(Problem::new(kind, "x"));
        assert_eq!(challenge(Problem::missing_token()).as_deref(), Some("Bearer realm=\"rampart\""));
        assert_eq!(challenge(Problem::no_bearer_token()), challenge(Problem::missing_token()));
        assert_eq!(with(Kind::Unauthenticated).as_deref(), Some("Bearer error=\"invalid_token\""));
        assert_eq!(with(Kind::PermissionDenied).as_deref(), Some("Bearer error=\"insufficient_scope\""));
        assert_eq!(with(Kind::NotFound), None);
        assert_eq!(Problem::missing_token().response(Form::Inference).status(), 401);
    }

    #[test]
    fn message_names_field_and_offset() {
        let problem = Problem::new(Kind::InvalidArgument, "wrong").field("inputs[0].shape").offset(7);
        assert_eq!(problem.message(), "inputs[0].shape: wrong (at byte 7)");
    }
}
