//! W3C trace context: every request belongs to a trace, also without a collector.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of `00-<32>-<16>-<2>`; later versions may be longer.
const TRACEPARENT_LEN: usize = 55;

/// Whether spans of this process are exported; set once by `init`, as the subscriber is.
static EXPORTING: OnceLock<bool> = OnceLock::new();

/// The trace that a request belongs to, here and in all it causes.
#[derive(Clone)]
pub struct Trace {
    /// Never without a valid span context.
    context: Context,
    span: Span,
}

pub(crate) fn set_exporting(is_exporting: bool) {
    // A second `init` fails before it comes here.
    let _first = EXPORTING.set(is_exporting);
}

/// Writes the current trace into the headers of an outgoing request; without a current trace, nothing.
pub fn inject(headers: &mut HeaderMap) {
    Context::map_current(|current| write(current, headers));
}

// === impl Trace ===

impl Trace {
    /// Continues the trace that the headers name, or begins one.
    ///
    /// `span` makes the span of this request and is called only when it will be recorded: when the trace is exported, or
    /// when spans are logged (level debug). It runs with the trace as its parent.
    pub fn of_request(headers: &HeaderMap, span: impl FnOnce(tracing::Level) -> Span) -> Self {
        let is_exporting = EXPORTING.get().copied().unwrap_or(false);
        let remote = read(headers);
        let is_recorded = is_exporting && remote.as_ref().is_none_or(SpanContext::is_sampled);
        let level = if is_recorded { tracing::Level::INFO } else { tracing::Level::DEBUG };
        let context = match remote {
            Some(remote) => Context::new().with_remote_span_context(remote),
            // The root span of an exported trace takes its ids, and whether it is sampled, from the SDK.
            None if is_exporting => Context::new(),
            None => Context::new().with_remote_span_context(new_context()),
        };
        let span = {
            let _parent = context.clone().attach();
            span(level)
        };
        let of_span = if is_recorded { span.context() } else { Context::new() };
        let context = if of_span.span().span_context().is_valid() { of_span } else { context };
        let has_trace = context.span().span_context().is_valid();
        let context = if has_trace { context } else { context.with_remote_span_context(new_context()) };
        Self { context, span }
    }

    /// The trace's id, 32 hexadecimal digits, as logs and collectors show it.
    pub fn id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }

    /// The span of this request; disabled unless it is exported or logged.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Writes this trace into the headers of a request that it causes.
    pub fn inject(&self, headers: &mut HeaderMap) {
        write(&self.context, headers);
    }

    /// Makes this the current trace of the thread until the guard is dropped. Never hold the guard over an `await`.
    pub fn attach(&self) -> ContextGuard {
        self.context.clone().attach()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Trace({})", self.id())
    }
}

/// The id of the current trace, if there is one.
pub(crate) fn current_id() -> Option<TraceId> {
    Context::map_current(|current| {
        let id = current.span().span_context().trace_id();
        (id != TraceId::INVALID).then_some(id)
    })
}

/// A trace that begins here and is not recorded.
fn new_context() -> SpanContext {
    let ids = RandomIdGenerator::default();
    SpanContext::new(ids.new_trace_id(), ids.new_span_id(), TraceFlags::NOT_SAMPLED, false, TraceState::NONE)
}

/// Strict, because what is not understood is not passed on: <https://www.w3.org/TR/trace-context/#traceparent-header>.
fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let is_length_right = match text.get(..3)? {
        "ff-" => false,
        "00-" => text.len() == TRACEPARENT_LEN,
        _ => text.len() == TRACEPARENT_LEN || text.get(TRACEPARENT_LEN..)?.starts_with('-'),
    };
    let mut parts = text.get(..TRACEPARENT_LEN)?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !is_length_right || !is_hex(version, 2) || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = headers.get(TRACESTATE).and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        state.unwrap_or(TraceState::NONE),
    );
    context.is_valid().then_some(context)
}

fn write(context: &Context, headers: &mut HeaderMap) {
    let span = context.span();
    let span_context = span.span_context();
    if !span_context.is_valid() {
        return;
    }
    let traceparent = format!(
        "00-{}-{}-{:02x}",
        span_context.trace_id(),
        span_context.span_id(),
        span_context.trace_flags() & TraceFlags::SAMPLED
    );
    let Ok(traceparent) = HeaderValue::try_from(traceparent) else { return };
    headers.insert(TRACEPARENT, traceparent);
    let state = span_context.trace_state().header();
    if let (false, Ok(state)) = (state.is_empty(), HeaderValue::try_from(state)) {
        headers.insert(TRACESTATE, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(traceparent: &str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::try_from(traceparent).unwrap())])
    }

    fn passed_on(incoming: &HeaderMap) -> HeaderMap {
        let trace = Trace::of_request(incoming, |_| Span::none());
        let mut outgoing = HeaderMap::new();
        let _current = trace.attach();
        inject(&mut outgoing);
        outgoing
    }

    /// Nothing is exported here, and the trace is passed on unchanged all the same.
    #[test]
    fn a_trace_is_passed_on_without_a_collector() {
        let mut incoming = headers(PARENT);
        incoming.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let outgoing = passed_on(&incoming);
        assert_eq!(outgoing[TRACEPARENT], PARENT);
        assert_eq!(outgoing[TRACESTATE], "vendor=1");
        assert!(!passed_on(&headers(PARENT)).contains_key(TRACESTATE));
    }

    #[test]
    fn a_request_without_a_trace_begins_one() {
        let (one, other) = (passed_on(&HeaderMap::new()), passed_on(&HeaderMap::new()));
        assert_ne!(one[TRACEPARENT], other[TRACEPARENT]);
        assert!(read(&one).is_some_and(|context| !context.is_sampled()));
    }

    #[test]
    fn without_a_current_trace_nothing_is_written() {
        let mut outgoing = HeaderMap::new();
        inject(&mut outgoing);
        assert!(outgoing.is_empty());
        assert_eq!(current_id(), None);
    }

    #[test]
    fn malformed_headers_begin_a_new_trace() {
        let all_zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for wrong in [
            "",
            "00",
            "00-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-001",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            &all_zero,
        ] {
            assert!(read(&headers(wrong)).is_none(), "{wrong}");
        }
        for right in [PARENT, &PARENT.replacen("00", "01", 1), &format!("{}-x", PARENT.replacen("00", "cc", 1))] {
            assert!(read(&headers(right)).is_some(), "{right}");
        }
    }
}
