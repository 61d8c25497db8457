//! Spans to an OTLP collector, when one is configured.
//!
//! Written here because the exporter of opentelemetry-otlp takes tonic's own channel only, and there is one way to call
//! here: `transport::channel`, with certificates that renew themselves.

use std::time::Duration;

use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter, Tracer,
};
use tokio::runtime::Handle;
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

/// Spans that wait for the collector; more are dropped, never waited for.
const QUEUE_SPANS_MAX: usize = 2_048;

/// Spans in one call to the collector.
const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for its batch to fill.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// One call to the collector, and the flush at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The channel to an OTLP collector.
#[derive(Clone, Debug)]
pub struct Collector(BoxCloneSyncService<Request<Body>, Response<Body>, Status>);

/// The pipeline from spans to the collector.
pub(crate) struct Export(SdkTracerProvider);

/// Sends batches; asked on a thread of the SDK, it works on the runtime where the channel lives.
#[derive(Debug)]
struct Exporter {
    collector: Collector,
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
}

// === impl Collector ===

impl Collector {
    /// Over a channel of `transport`.
    pub fn new<S>(channel: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Status> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(channel))
    }
}

// === impl Export ===

impl Export {
    pub(crate) fn start(collector: Collector, service: &str, instance: &str, sample_ratio: f64) -> Self {
        let exporter =
            Exporter { collector, runtime: Handle::current(), resource: ResourceAttributesWithSchema::default() };
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
        Self(provider)
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

// === impl Exporter ===

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request =
            ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(batch, &self.resource) };
        let mut client = TraceServiceClient::new(self.collector.0.clone());
        let call = async move { tokio::time::timeout(EXPORT_TIMEOUT, client.export(request)).await };
        match self.runtime.spawn(call).await {
            Ok(Ok(Ok(_answer))) => Ok(()),
            Ok(Ok(Err(status))) => Err(OTelSdkError::InternalFailure(format!("the collector refused: {status}"))),
            Ok(Err(_elapsed)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(ended) => Err(OTelSdkError::InternalFailure(ended.to_string())),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
