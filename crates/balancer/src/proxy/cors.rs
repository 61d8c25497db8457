//! Which pages of other origins a browser lets call the platform (CORS, as Fetch defines it). Off while no origin is named.
//!
//! This protects no service: what a caller may do follows from its token. It only says which pages may read answers. A preflight is
//! answered here, without a token, since browsers send none with it; what is preflighted gets the same checks as any request.
//! Credentials that a browser adds itself (cookies, client certificates) count for nothing here, so pages are never allowed to send
//! them, and `*` is never answered.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use pingora::http::{RequestHeader, ResponseHeader};
use serde::Deserialize;
use service::Fault;

/// More would make every request with an origin slow.
const ORIGINS_MAX: usize = 64;
/// A day, which is what browsers take at most.
const AGE_MAX_S: u32 = 86_400;
/// What the answer to a preflight depends on.
const PREFLIGHT_VARY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// The `[cors]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins as browsers write them: `https://host` or `https://host:port`. None: CORS is off.
    pub allowed_origins: Vec<String>,
    /// Methods that pages may use.
    pub allowed_methods: Vec<String>,
    /// Header fields that pages may set.
    pub allowed_headers: Vec<String>,
    /// Header fields of answers that pages may read, beside those that they always may.
    pub exposed_headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight.
    pub max_age_s: u32,
}

/// The answers, made once.
pub struct Cors {
    origins: Vec<HeaderValue>,
    exposed: HeaderValue,
    preflight: HeaderMap,
}

// === impl CorsConfig ===

impl CorsConfig {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |path: &str, is_wrong: bool, what: String| {
            if is_wrong {
                faults.push(Fault::new(format!("cors.{path}"), what));
            }
        };
        for origin in &self.allowed_origins {
            let what = format!(
                "{origin:?} is not an origin as browsers write it: https://host or https://host:port, in lower case"
            );
            check("allowed_origins", !is_origin(origin), what);
        }
        let is_too_many = self.allowed_origins.len() > ORIGINS_MAX;
        check("allowed_origins", is_too_many, format!("more than {ORIGINS_MAX} origins"));
        for method in &self.allowed_methods {
            let is_method =
                Method::from_bytes(method.as_bytes()).is_ok_and(|it| it != Method::CONNECT && it != Method::TRACE);
            check("allowed_methods", !is_method, format!("{method:?} is no method that a page can use"));
        }
        for (path, names) in [("allowed_headers", &self.allowed_headers), ("exposed_headers", &self.exposed_headers)] {
            for name in names {
                check(path, name.parse::<HeaderName>().is_err(), format!("{name:?} is no name of a header field"));
            }
        }
        check("max_age_s", self.max_age_s > AGE_MAX_S, format!("must be at most {AGE_MAX_S}"));
        faults
    }
}

/// Exactly what a browser sends, since it is compared as text. `*` and `null` would let in pages that nothing is known of.
fn is_origin(text: &str) -> bool {
    let Some(host) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let is_of_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:[]".contains(&byte);
    let has_default_port = if text.starts_with("https:") { host.ends_with(":443") } else { host.ends_with(":80") };
    let authority: Result<http::uri::Authority, _> = host.parse();
    host.bytes().all(is_of_host)
        && authority.is_ok_and(|it| !it.host().is_empty())
        && !has_default_port
        && !host.ends_with(':')
}

// === impl Cors ===

impl Cors {
    /// `None` if no origin is named, or a name is none, which the configuration's check has said before.
    pub fn new(config: &CorsConfig) -> Option<Self> {
        let origins: Vec<HeaderValue> =
            config.allowed_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        let list = |names: &[String]| names.join(", ").parse::<HeaderValue>().ok();
        let preflight = HeaderMap::from_iter([
            (ACCESS_CONTROL_ALLOW_METHODS, list(&config.allowed_methods)?),
            (ACCESS_CONTROL_ALLOW_HEADERS, list(&config.allowed_headers)?),
            (ACCESS_CONTROL_MAX_AGE, HeaderValue::from(config.max_age_s)),
            (VARY, HeaderValue::from_static(PREFLIGHT_VARY)),
        ]);
        (!origins.is_empty()).then_some(Self { origins, exposed: list(&config.exposed_headers)?, preflight })
    }

    /// What the answer to this request says to its browser. Every answer says that it depends on the origin.
    pub(super) fn answer_fields(&self, request: &HeaderMap) -> HeaderMap {
        let mut fields = HeaderMap::from_iter([(VARY, HeaderValue::from_static("Origin"))]);
        if let Some(origin) = self.allowed_origin(request) {
            fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if !self.exposed.is_empty() {
                fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
            }
        }
        fields
    }

    /// The answer to a preflight of an origin that may call; any other `OPTIONS` is a request like all others.
    pub(super) fn preflight_answer(&self, request: &RequestHeader) -> Option<Response<Bytes>> {
        let is_preflight =
            request.method == Method::OPTIONS && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        self.allowed_origin(&request.headers).filter(|_| is_preflight)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = self.preflight.clone();
        Some(response)
    }

    /// One origin, and one that is named. Two would be two answers.
    fn allowed_origin(&self, request: &HeaderMap) -> Option<&HeaderValue> {
        let mut values = request.get_all(ORIGIN).iter();
        let origin = values.next().filter(|_| values.next().is_none())?;
        self.origins.iter().find(|allowed| *allowed == origin)
    }
}

/// Puts them on what a replica answered. What it says itself of origins is not for a browser: that is decided here.
pub(super) fn set_fields(response: &mut ResponseHeader, fields: &HeaderMap) -> pingora::Result<()> {
    let is_of_cors = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    while let Some(name) = response.headers.keys().find(is_of_cors).cloned() {
        response.remove_header(&name);
    }
    add_fields(response, fields)
}

/// The same of an answer of the balancer itself.
pub(super) fn add_fields(response: &mut ResponseHeader, fields: &HeaderMap) -> pingora::Result<()> {
    for (name, value) in fields {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        for origin in ["https://a.example", "http://localhost:3000", "https://[::1]:8443", "https://10.0.0.1"] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "*",
            "null",
            "",
            "https://",
            "a.example",
            "https://a.example/",
            "https://*.example",
            "https://A.example",
            "https://a.example:443",
            "http://a:80",
            "https://a:",
            "https://u@a",
            "ftp://a",
            "https://a b",
            "https://a?x",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }

    #[test]
    fn without_an_origin_there_is_nothing() {
        let config = CorsConfig {
            allowed_origins: vec![],
            allowed_methods: vec!["GET".into()],
            allowed_headers: vec![],
            exposed_headers: vec![],
            max_age_s: 1,
        };
        assert!(Cors::new(&config).is_none());
        let one = CorsConfig { allowed_origins: vec!["https://a".into()], ..config.clone() };
        assert!(Cors::new(&one).is_some());
        let wrong = CorsConfig {
            allowed_origins: vec!["*".into()],
            allowed_methods: vec!["TRACE".into(), "a b".into()],
            allowed_headers: vec!["a:".into()],
            exposed_headers: vec!["é".into()],
            max_age_s: AGE_MAX_S + 1,
        };
        assert_eq!(wrong.faults().len(), 6);
    }
}
