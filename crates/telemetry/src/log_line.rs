//! One event, one JSON object, one line.

use std::fmt;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::trace;

/// Writes `{"time":..,"level":..,"message":..,"service":..,"instance":..,"target":..,"trace_id":..,<fields>,"spans":[..]}`.
///
/// The trace's id comes from the trace context and not from a span, so it is there although spans are off.
pub(crate) struct LogLine {
    service: &'static str,
    instance: String,
}

/// Collects an event's fields beside the keys that every line has.
struct EventFields<'a>(&'a mut Map<String, Value>);

// === impl LogLine ===

impl LogLine {
    pub(crate) fn new(service: &'static str, instance: &str) -> Self {
        Self { service, instance: instance.to_owned() }
    }
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        let now = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|_| fmt::Error)?;
        line.insert("time".to_owned(), json!(now));
        line.insert("level".to_owned(), json!(metadata.level().as_str()));
        line.insert("message".to_owned(), Value::Null);
        line.insert("service".to_owned(), json!(self.service));
        line.insert("instance".to_owned(), json!(self.instance));
        line.insert("target".to_owned(), json!(metadata.target()));
        if let Some(id) = trace::current_id() {
            line.insert("trace_id".to_owned(), json!(id.to_string()));
        }
        event.record(&mut EventFields(&mut line));
        let spans: Vec<Value> = context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
            .map(|span| span_fields(span.name(), span.extensions().get::<FormattedFields<N>>()))
            .collect();
        if !spans.is_empty() {
            line.insert("spans".to_owned(), Value::Array(spans));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn span_fields<N>(name: &str, fields: Option<&FormattedFields<N>>) -> Value {
    let known = fields.and_then(|fields| serde_json::from_str(&fields.fields).ok());
    let mut object = if let Some(Value::Object(object)) = known { object } else { Map::new() };
    object.insert("name".to_owned(), json!(name));
    Value::Object(object)
}

// === impl EventFields ===

impl EventFields<'_> {
    /// A field never replaces a key that every line has, but `message`, which is empty until it comes.
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let is_taken = self.0.get(name).is_some_and(|taken| !taken.is_null());
        let key = if is_taken { format!("field_{name}") } else { name.to_owned() };
        self.0.insert(key, value);
    }
}

impl Visit for EventFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn logged(emit: impl FnOnce()) -> Vec<Value> {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let layer = tracing_subscriber::fmt::layer()
            .event_format(LogLine::new("gateway", "gateway-1"))
            .fmt_fields(JsonFields::new())
            .with_writer(move || Sink(Arc::clone(&sink)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
        let text = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_flat_and_its_own_keys_cannot_be_replaced() {
        let lines = logged(|| tracing::info!(rows = 3, level = "forged", name = "a\nb", "wrote {}", "x"));
        let line = &lines[0];
        assert_eq!((&line["message"], &line["rows"], &line["name"]), (&json!("wrote x"), &json!(3), &json!("a\nb")));
        assert_eq!((&line["level"], &line["field_level"]), (&json!("INFO"), &json!("forged")));
        assert_eq!((&line["service"], &line["instance"]), (&json!("gateway"), &json!("gateway-1")));
    }

    #[test]
    fn the_trace_is_named_although_there_is_no_span() {
        let trace = trace::Trace::of_request(&http::HeaderMap::new(), |_| tracing::Span::none());
        let lines = logged(|| {
            let _current = trace.attach();
            tracing::info!("inside");
        });
        assert_eq!(lines[0]["trace_id"], json!(trace.id()));
    }

    #[test]
    fn spans_are_listed_from_the_root() {
        let lines = logged(|| {
            let _outer = tracing::info_span!("request", route = "/a").entered();
            let _inner = tracing::info_span!("query", rows = 1).entered();
            tracing::info!("inside");
        });
        assert_eq!(lines[0]["spans"], json!([{"name": "request", "route": "/a"}, {"name": "query", "rows": 1}]));
    }
}
