//! One span and two measurements per request.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::extract::MatchedPath;
use http::{Request, Response};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::RwLock;
use pin_project_lite::pin_project;
use slo::{Outcome, PerOutcome};
use tower::{Layer, Service};
use tracing::Level;

use crate::setup::service_name;
use crate::trace::Trace;

/// Route of the requests that no route matched.
const UNMATCHED: &str = "unmatched";

/// Measures and traces every request of the router it is laid on: `router.layer(telemetry::http_layer())`.
///
/// Lay it with [`Router::layer`](axum::Router::layer), inside of which the route is known; its template is the only label
/// that comes from the request, so the number of series is bounded by the code.
#[derive(Clone, Debug)]
pub struct HttpLayer {
    routes: Arc<Routes>,
}

/// What [`HttpLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct HttpService<S> {
    inner: S,
    routes: Arc<Routes>,
}

pin_project! {
    /// The answer to come, inside its trace.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        trace: Trace,
        measured: MeasuredRequest,
    }
}

/// The metrics of each route, made when the route is first seen.
#[derive(Debug)]
struct Routes {
    requests: String,
    duration: String,
    by_template: RwLock<HashMap<String, Arc<Route>>>,
    in_flight: Gauge,
}

#[derive(Debug)]
struct Route {
    outcomes: PerOutcome<Counter>,
    duration: Histogram,
}

/// Counts the request when it ends, also when its caller left before.
#[derive(Debug)]
struct MeasuredRequest {
    route: Arc<Route>,
    in_flight: Gauge,
    started: Instant,
    is_counted: bool,
}

/// A layer for the routes of this process' service.
pub fn http_layer() -> HttpLayer {
    let service = service_name();
    let requests = format!("ml_{service}_requests_total");
    let duration = format!("ml_{service}_request_duration_seconds");
    let in_flight = format!("ml_{service}_in_flight_requests");
    describe_counter!(requests.clone(), Unit::Count, "Requests answered, by route and outcome.");
    describe_histogram!(
        duration.clone(),
        Unit::Seconds,
        "Time from the request's head to the answer's head, by route."
    );
    describe_gauge!(in_flight.clone(), Unit::Count, "Requests that are not answered yet.");
    let routes = Routes { requests, duration, by_template: RwLock::default(), in_flight: gauge!(in_flight) };
    HttpLayer { routes: Arc::new(routes) }
}

/// By the HTTP status, or the gRPC status where the head has it. tonic puts the status of a failed unary call there; one that
/// comes in the trailers of a stream is not seen.
fn outcome_of<B>(response: &Response<B>) -> Outcome {
    let grpc_status = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    grpc_status.map_or_else(|| Outcome::of_http(response.status().as_u16()), Outcome::of_grpc)
}

// === impl HttpLayer ===

impl HttpLayer {
    /// Registers the series of these route templates at zero now: the first event of a series that is not there yet is lost
    /// to `rate`.
    #[must_use]
    pub fn with_routes<'a>(self, templates: impl IntoIterator<Item = &'a str>) -> Self {
        for template in templates {
            self.routes.get(template);
        }
        self
    }
}

impl<S> Layer<S> for HttpLayer {
    type Service = HttpService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpService { inner, routes: Arc::clone(&self.routes) }
    }
}

// === impl HttpService ===

impl<S, B, R> Service<Request<B>> for HttpService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let template = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
        let measured = MeasuredRequest::start(self.routes.get(template), self.routes.in_flight.clone());
        let trace = Trace::of_request(request.headers(), |level| request_span(level, request.method(), template));
        let inner = {
            let _trace = trace.attach();
            let _span = trace.span().enter();
            self.inner.call(request)
        };
        ResponseFuture { inner, trace, measured }
    }
}

fn request_span(level: Level, method: &http::Method, route: &str) -> tracing::Span {
    // The level of a span is part of the code and not a value, hence two of them.
    if level == Level::INFO {
        tracing::info_span!(
            "request",
            otel.name = route,
            otel.kind = "server",
            http.request.method = method.as_str(),
            http.route = route,
            http.response.status_code = tracing::field::Empty,
        )
    } else {
        tracing::debug_span!("request", http.request.method = method.as_str(), http.route = route)
    }
}

// === impl ResponseFuture ===

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _trace = this.trace.attach();
        let _span = this.trace.span().enter();
        let result = ready!(this.inner.poll(context));
        match &result {
            Ok(response) => {
                this.trace.span().record("http.response.status_code", response.status().as_u16());
                this.measured.count(outcome_of(response));
            }
            Err(_) => this.measured.count(Outcome::Error),
        }
        Poll::Ready(result)
    }
}

// === impl Routes ===

impl Routes {
    fn get(&self, template: &str) -> Arc<Route> {
        if let Some(route) = self.by_template.read().get(template) {
            return Arc::clone(route);
        }
        let mut by_template = self.by_template.write();
        let route = by_template.entry(template.to_owned()).or_insert_with(|| Arc::new(Route::new(self, template)));
        Arc::clone(route)
    }
}

impl Route {
    fn new(names: &Routes, template: &str) -> Self {
        let outcomes = PerOutcome::new(|outcome| {
            let counter =
                counter!(names.requests.clone(), "route" => template.to_owned(), "outcome" => outcome.as_str());
            counter.increment(0);
            counter
        });
        Self { outcomes, duration: histogram!(names.duration.clone(), "route" => template.to_owned()) }
    }
}

// === impl MeasuredRequest ===

impl MeasuredRequest {
    fn start(route: Arc<Route>, in_flight: Gauge) -> Self {
        in_flight.increment(1.0);
        Self { route, in_flight, started: Instant::now(), is_counted: false }
    }

    fn count(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        self.in_flight.decrement(1.0);
        self.route.duration.record(self.started.elapsed());
        self.route.outcomes.get(outcome).increment(1);
    }
}

impl Drop for MeasuredRequest {
    fn drop(&mut self) {
        self.count(Outcome::ClientError);
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path;
    use axum::routing::get;
    use http::{HeaderMap, HeaderValue, StatusCode};
    use tower::ServiceExt;

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    /// What the layer measured while `work` ran; the recorder is this thread's.
    fn measured(work: impl AsyncFnOnce(Router)) -> String {
        let recorder = crate::prometheus::builder().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(work(router()));
        });
        recorder.handle().render()
    }

    #[expect(clippy::disallowed_methods, reason = "the routes of a test need no action")]
    fn router() -> Router {
        let status = async |Path(code): Path<u16>| StatusCode::from_u16(code).unwrap();
        let grpc = async |Path(code): Path<String>| [("grpc-status", code)];
        let trace = async || {
            let mut headers = HeaderMap::new();
            crate::inject(&mut headers);
            headers.remove("traceparent").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        Router::new()
            .route("/status/{code}", get(status))
            .route("/grpc/{code}", get(grpc))
            .route("/trace", get(trace))
            .route("/never", get(std::future::pending::<()>))
            .layer(http_layer().with_routes(["/status/{code}"]))
    }

    async fn call(router: &Router, path: &str) -> Response<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert("traceparent", HeaderValue::from_static(TRACEPARENT));
        router.clone().oneshot(request).await.unwrap()
    }

    fn assert_counted(text: &str, route: &str, outcome: &str, count: u32) {
        let line = format!("ml_unnamed_requests_total{{route=\"{route}\",outcome=\"{outcome}\"}} {count}\n");
        assert!(text.contains(&line), "{line} in\n{text}");
    }

    #[test]
    fn requests_are_counted_by_template_and_outcome() {
        let text = measured(async |router| {
            for code in [200, 302, 400, 404, 408, 429, 500, 503, 504] {
                call(&router, &format!("/status/{code}")).await;
            }
            for code in [0, 4, 5, 8, 13, 14] {
                call(&router, &format!("/grpc/{code}")).await;
            }
            call(&router, "/nowhere").await;
        });
        let expected = [("ok", 2, 1), ("client_error", 4, 2), ("timeout", 1, 1), ("shed", 1, 1), ("error", 1, 1)];
        for (outcome, by_status, by_grpc) in expected {
            assert_counted(&text, "/status/{code}", outcome, by_status);
            assert_counted(&text, "/grpc/{code}", outcome, by_grpc);
        }
        assert_counted(&text, "unmatched", "client_error", 1);
        assert!(text.contains("ml_unnamed_request_duration_seconds_count{route=\"/status/{code}\"} 9\n"), "{text}");
        assert!(!text.contains("/status/200"), "a path is never a label: {text}");
    }

    #[test]
    fn known_routes_are_there_before_their_first_request() {
        let text = measured(async |_| ());
        assert_counted(&text, "/status/{code}", "ok", 0);
        assert!(text.contains("ml_unnamed_request_duration_seconds_count{route=\"/status/{code}\"} 0\n"), "{text}");
    }

    #[test]
    fn a_caller_that_leaves_is_counted_and_no_longer_in_flight() {
        let text = measured(async |router| {
            let mut abandoned = Box::pin(call(&router, "/never"));
            assert!(poll_once(&mut abandoned).await.is_none());
        });
        assert_counted(&text, "/never", "client_error", 1);
        assert!(text.contains("ml_unnamed_in_flight_requests 0\n"), "{text}");
    }

    #[test]
    fn the_trace_of_a_request_is_current_in_its_handler_and_nowhere_else() {
        measured(async |router| {
            let body = axum::body::to_bytes(call(&router, "/trace").await.into_body(), 1_000).await.unwrap();
            assert_eq!(body, TRACEPARENT);
            let mut headers = HeaderMap::new();
            crate::inject(&mut headers);
            assert!(headers.is_empty());
        });
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
