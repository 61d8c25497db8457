//! `POST /api/auth/token`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use problem::{Form, Kind, Problem};
use secrets::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{client_authentication::BasicCredentials, payload::Payload};
use crate::{
    app::App,
    audit::RequestSource,
    grant::{Grant, GrantError, IssuedTokens},
};

/// What a client that has tried `Basic` is told to try again.
const BASIC_CHALLENGE: &str = "Basic realm=\"rampart\", charset=\"UTF-8\"";

/// The fields of RFC 6749, for every grant; what a grant does not need is ignored, as the RFC wants it. A field without a value
/// (§3.1) or with `null` is as if it were left out, and one that is given twice is refused.
#[derive(Deserialize, ToSchema)]
pub struct TokenRequest {
    /// `password`, `client_credentials`, `refresh_token` or `bootstrap`.
    #[serde(default, deserialize_with = "optional")]
    #[schema(value_type = Option<String>)]
    grant_type: Option<String>,
    /// For `password` and `bootstrap`.
    #[serde(default, deserialize_with = "optional")]
    #[schema(value_type = Option<String>)]
    username: Option<String>,
    /// For `password` and `bootstrap`.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
    /// For `client_credentials`: the machine's name. For `password`: the client that asks, if it has a name. The user of
    /// `Authorization: Basic` is the same.
    #[serde(default, deserialize_with = "optional")]
    #[schema(value_type = Option<String>)]
    client_id: Option<String>,
    /// For `client_credentials`, where it is not the password of `Authorization: Basic`.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    client_secret: Option<Secret>,
    /// For `refresh_token`.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    refresh_token: Option<Secret>,
    /// For `bootstrap`: the one-time token.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    bootstrap_token: Option<Secret>,
}

/// RFC 6749 §5.1.
#[derive(Serialize, ToSchema)]
pub struct TokenResponse {
    /// A JWT of type `at+jwt` (RFC 9068), for ten minutes.
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    /// To be exchanged once for the next pair; people only.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// Exchange a proof of identity for an access token.
#[utoipa::path(
    post, path = "/api/auth/token", tag = "auth", security((), ("client" = [])),
    request_body(content((TokenRequest = "application/x-www-form-urlencoded"), (TokenRequest = "application/json"))),
    responses(
        (status = 200, description = "Tokens", body = TokenResponse),
        (status = 400, description = "Not a token request; `error` says which rule of RFC 6749", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "The credentials are not valid, for whatever cause", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many failures; Retry-After says when to try again", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not now; Retry-After says when", body = super::problem_body::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn token(
    State(app): State<Arc<App>>,
    source: RequestSource,
    headers: HeaderMap,
    payload: Payload,
) -> Response {
    let basic = BasicCredentials::of(&headers);
    let tried_basic = matches!(basic, Ok(Some(_)));
    let issued = match grant(basic, &payload, &headers) {
        Ok(grant) => app.exchange(grant, &source).await,
        Err(error) => Err(error),
    };
    let mut response = match issued {
        Ok(issued) => Json(TokenResponse::from(issued)).into_response(),
        Err(error) => error.into_response(),
    };
    if tried_basic && response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(BASIC_CHALLENGE));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The grant that body and header ask for together.
fn grant(
    basic: Result<Option<BasicCredentials>, Problem>,
    payload: &Payload,
    headers: &HeaderMap,
) -> Result<Grant, GrantError> {
    let basic = basic.map_err(GrantError::invalid_request)?;
    let request = payload.form_or_json::<TokenRequest>(headers).map_err(GrantError::invalid_request)?;
    request.with_basic(basic)?.try_into()
}

fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|value| !value.is_empty()))
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(optional(deserializer)?.map(Secret::new))
}

fn required<T>(value: Option<T>, field: &str) -> Result<T, GrantError> {
    value.ok_or_else(|| {
        let problem = Problem::new(Kind::InvalidArgument, "is missing, and this login needs it").field(field);
        GrantError::invalid_request(problem)
    })
}

// === impl TokenRequest ===

impl TokenRequest {
    /// With the client of an `Authorization: Basic`. A client may say the same twice, but nothing else (RFC 6749 §2.3).
    fn with_basic(mut self, basic: Option<BasicCredentials>) -> Result<Self, GrantError> {
        let Some(BasicCredentials { client_id, client_secret }) = basic else { return Ok(self) };
        // Names are compared without their case everywhere.
        if self.client_id.as_ref().is_some_and(|named| !named.eq_ignore_ascii_case(&client_id)) {
            return Err(differs("client_id"));
        }
        if self.client_secret.as_ref().is_some_and(|given| *given != client_secret) {
            return Err(differs("client_secret"));
        }
        self.client_id = Some(client_id).filter(|client_id| !client_id.is_empty());
        self.client_secret = Some(client_secret);
        Ok(self)
    }
}

fn differs(field: &str) -> GrantError {
    let detail = "is not what the Authorization header says; give the client's credentials once";
    GrantError::invalid_request(Problem::new(Kind::InvalidArgument, detail).field(field))
}

// === impl Grant ===

impl TryFrom<TokenRequest> for Grant {
    type Error = GrantError;

    fn try_from(request: TokenRequest) -> Result<Self, GrantError> {
        match request.grant_type.as_deref() {
            Some("password") => Ok(Self::Password {
                username: required(request.username, "username")?,
                password: required(request.password, "password")?,
                client_id: request.client_id,
            }),
            Some("client_credentials") => Ok(Self::ClientCredentials {
                client_id: required(request.client_id, "client_id")?,
                client_secret: required(request.client_secret, "client_secret")?,
            }),
            Some("refresh_token") => Ok(Self::RefreshToken(required(request.refresh_token, "refresh_token")?)),
            Some("bootstrap") => Ok(Self::Bootstrap {
                token: required(request.bootstrap_token, "bootstrap_token")?,
                username: required(request.username, "username")?,
                password: required(request.password, "password")?,
            }),
            Some(_) => Err(GrantError::unsupported_grant_type()),
            None => Err(required(None::<()>, "grant_type").expect_err("nothing was given")),
        }
    }
}

// === impl TokenResponse ===

impl From<IssuedTokens> for TokenResponse {
    fn from(issued: IssuedTokens) -> Self {
        Self {
            access_token: issued.access_token,
            token_type: "Bearer",
            expires_in: issued.expires_in.as_secs(),
            refresh_token: issued.refresh_token,
        }
    }
}

// === impl GrantError ===

impl IntoResponse for GrantError {
    /// problem+json with the members of RFC 6749 added, for clients of either RFC.
    fn into_response(self) -> Response {
        let (head, body) = self.problem.response(Form::Api).into_parts();
        let mut members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&body).unwrap_or_default();
        members.insert("error".to_owned(), self.code.into());
        members.insert("error_description".to_owned(), self.problem.message().into());
        Response::from_parts(head, Body::from(serde_json::Value::from(members).to_string()))
    }
}
