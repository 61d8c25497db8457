//! Which model a path names.

use axum::{
    body::Body,
    extract::{FromRequestParts, RawPathParams},
    response::Response,
};
use http::request::Parts;
use problem::{Form, Kind, Problem};

/// The model and version that a path names; both are empty where the path has none.
pub(crate) struct Target {
    pub(crate) model: String,
    pub(crate) version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    /// In the form of the route.
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|_| {
            let problem = Problem::new(Kind::InvalidArgument, "the path is not UTF-8");
            problem.response(Form::of(parts.uri.path(), None)).map(Body::from)
        })?;
        let take =
            |name| path.iter().find(|(key, _)| *key == name).map_or_else(String::new, |(_, value)| value.to_owned());
        Ok(Self { model: take("model"), version: take("version") })
    }
}
