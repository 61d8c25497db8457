//! Spans to an OTLP collector, when one is configured.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Tracer};
use tonic::transport::Channel;

/// Spans that wait for the collector; more are dropped, never waited for.
const QUEUE_SPANS_MAX: usize = 2_048;

/// Spans in one call to the collector.
const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for company.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// One call to the collector, and the flush at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The way to the collector.
pub(crate) struct Export(SdkTracerProvider);

// === impl Export ===

impl Export {
    pub(crate) fn start(
        channel: Channel,
        service: &str,
        instance: &str,
        sample_ratio: f64,
    ) -> Result<Self, ExporterBuildError> {
        let exporter =
            SpanExporter::builder().with_tonic().with_channel(channel).with_timeout(EXPORT_TIMEOUT).build()?;
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(format!("rampart-{service}"))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio))))
            .with_resource(resource)
            .build();
        Ok(Self(provider))
    }

    pub(crate) fn tracer(&self) -> Tracer {
        self.0.tracer("rampart")
    }

    /// Sends what is left. Blocks, at most for [`EXPORT_TIMEOUT`].
    pub(crate) fn shutdown(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}
