//! The gRPC face of the inference protocol: thin, with the same rules and the same words as REST.

mod infer;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use authz::Principal;
use engine::{TensorSpec, tensor::Tensor};
use http::HeaderValue;
use model_repository::{Durations, Model};
use problem::{Kind, Problem};
use prost::Message;
use proto::inference::{
    InferStatistics, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ModelRepositoryParameter, ModelStatistics, ModelStatisticsRequest,
    ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    StatisticDuration,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_metadata_response::TensorMetadata,
    repository_index_response::ModelIndex,
};
use tonic::{Code, Request, Response, Status, body::Body, codec::CompressionEncoding};
use tower::util::{MapRequest, MapResponse};

use crate::{
    app::{App, RequestLimits},
    byte_budget::{ByteBudget, CallBytes, HeldBody, over_budget},
    desired_state::Requester,
    inference::{MeasuredPrediction, subject},
    protocol::{EXTENSIONS, PLATFORM, deadline, is_too_long, offload::offload_if_large, properties},
};

/// The service's name in the contract.
pub(crate) const SERVICE: &str = "inference.GRPCInferenceService";

/// How tonic's own INTERNAL begins; each is about a request that cannot be read.
const TONIC_READ_ERRORS: [&str; 4] =
    ["protocol error: ", "Error decompressing: ", "Unexpected EOF decoding stream", "Missing request message"];

/// The methods, over the state of the process.
#[derive(Clone)]
pub(crate) struct Service(App);

/// The tonic service with the limits of this process.
pub(crate) fn server(
    app: &App,
) -> impl tower::Service<
    http::Request<axum::body::Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ Sync
+ use<> {
    // What comes in is bounded, packed and unpacked; what is computed is bounded by the engine.
    let server = GrpcInferenceServiceServer::new(Service(app.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(app.limits.body_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let (budget, limits) = (app.bytes.clone(), app.limits);
    let server = MapResponse::new(server, |response| hold_bytes(correct_client_error_codes(response)));
    MapRequest::new(server, move |request| count_bytes(&budget, limits, request))
}

/// Takes the bytes of a request out of the budget as they arrive.
fn count_bytes(
    budget: &ByteBudget,
    limits: RequestLimits,
    mut request: http::Request<axum::body::Body>,
) -> http::Request<axum::body::Body> {
    let bytes = budget.open(subject(request.extensions().get()));
    request.extensions_mut().insert(bytes.clone());
    let is_packed = request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
    request.map(|body| {
        let counted = bytes.count(body, Instant::now() + limits.timeout_max);
        axum::body::Body::new(if is_packed { counted.packed(limits.body_bytes_max) } else { counted })
    })
}

/// An answer holds its bytes until it was sent.
fn hold_bytes(mut response: http::Response<Body>) -> http::Response<Body> {
    let Some(bytes) = response.extensions_mut().remove::<CallBytes>() else { return response };
    response.map(|body| Body::new(HeldBody::new(axum::body::Body::new(body), bytes)))
}

/// Corrects the codes of requests that tonic could not read. None of them is the server's fault: a message over the limit is
/// RESOURCE_EXHAUSTED as on the other routes, and one that is not framed or packed as it says is INVALID_ARGUMENT.
fn correct_client_error_codes(mut response: http::Response<Body>) -> http::Response<Body> {
    let Some(status) = response.extensions().get::<Status>() else { return response };
    if let Some(over) = over_budget(status) {
        return Status::from(Problem::from(over)).into_http();
    }
    let code = match status.code() {
        Code::OutOfRange => Code::ResourceExhausted,
        // The body itself was cut, by the listener's limit or by its sender.
        Code::Unknown if is_too_long(status) => Code::ResourceExhausted,
        Code::Unknown => Code::InvalidArgument,
        Code::Internal if TONIC_READ_ERRORS.iter().any(|words| status.message().starts_with(words)) => {
            Code::InvalidArgument
        }
        _ => return response,
    };
    response.headers_mut().insert(Status::GRPC_STATUS, HeaderValue::from(code as i32));
    response
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        match self.0.repository.resolve(&name, &version) {
            Ok(_) => Ok(Response::new(ModelReadyResponse { ready: true })),
            // As Triton answers: a model that is not known is not ready.
            Err(problem) if matches!(problem.kind(), Kind::Unavailable | Kind::NotFound | Kind::Conflict) => {
                Ok(Response::new(ModelReadyResponse { ready: false }))
            }
            Err(problem) => Err(problem.into()),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "rampart".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.iter().map(|extension| (*extension).to_owned()).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let model = self.0.repository.resolve(&name, &version)?;
        let snapshot = self.0.repository.snapshot();
        let entry = snapshot.entry(&name);
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: entry
                .into_iter()
                .flat_map(|entry| entry.serving())
                .map(|model| model.version_text.clone())
                .collect(),
            platform: PLATFORM.to_owned(),
            inputs: model.signature.inputs.iter().map(tensor_metadata).collect(),
            outputs: model.signature.outputs.iter().map(tensor_metadata).collect(),
            properties: properties(&model, entry).into_iter().collect(),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let arrived = Instant::now();
        let (metadata, extensions, request) = request.into_parts();
        let model = self.0.repository.resolve(&request.model_name, &request.model_version)?;
        let timeout = deadline::of_headers(metadata.as_ref())?;
        let caller = extensions.get::<Principal>();
        let bytes = extensions.get().cloned().unwrap_or_else(|| self.0.bytes.open(subject(caller)));
        let mut measured = MeasuredPrediction::start(Arc::clone(&model), caller, bytes, arrived);
        let answer = self.predict(&model, request, timeout, &mut measured).await;
        let bytes = measured.bytes.clone();
        let mut response = Response::new(measured.finish(answer)?);
        response.extensions_mut().insert(bytes);
        Ok(response)
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let models = self.0.repository.snapshot().serving(&name, &version)?;
        Ok(Response::new(ModelStatisticsResponse {
            model_stats: models.iter().map(|model| statistics(model)).collect(),
        }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let rows = self.0.repository.snapshot().index(request.into_inner().ready);
        let models = rows
            .into_iter()
            .map(|row| ModelIndex {
                name: row.name,
                version: row.version,
                state: row.state.as_str().to_owned(),
                reason: row.reason,
            })
            .collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let requester = Requester::of(request.extensions().get(), request.metadata().as_ref())?;
        let request = request.into_inner();
        refuse_parameters(&request.parameters, |_| false)?;
        self.0.load_model(&request.model_name, requester).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let requester = Requester::of(request.extensions().get(), request.metadata().as_ref())?;
        let request = request.into_inner();
        refuse_parameters(&request.parameters, |key| key == "unload_dependents")?;
        self.0.unload_model(&request.model_name, requester).await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

impl Service {
    async fn predict(
        &self,
        model: &Arc<Model>,
        request: ModelInferRequest,
        timeout: Option<Duration>,
        measured: &mut MeasuredPrediction,
    ) -> Result<ModelInferResponse, Problem> {
        let (bytes, signed) = (request.encoded_len(), Arc::clone(model));
        measured.bytes.hold(bytes)?;
        let held = measured.bytes.clone();
        let (mut call, reply) = offload_if_large(bytes, held, move || infer::read(request, &signed.signature)).await?;
        call.timeout = deadline::shorter_of(call.timeout, timeout);
        let outputs = measured.compute(call, self.0.limits.timeout_max).await?;
        let (bytes, model) = (outputs.iter().map(Tensor::bytes_held).sum(), Arc::clone(model));
        let held = measured.bytes.clone();
        offload_if_large(bytes, held, move || Ok(reply.write(&model, &outputs))).await
    }
}

fn refuse_parameters(
    parameters: &HashMap<String, ModelRepositoryParameter>,
    harmless: impl Fn(&str) -> bool,
) -> Result<(), Problem> {
    match parameters.keys().find(|key| !harmless(key)) {
        None => Ok(()),
        Some(key) => {
            let detail = "a model is loaded as its folder has it; overrides are not offered";
            Err(Problem::new(Kind::InvalidArgument, detail).field(format!("parameters.{key}")))
        }
    }
}

fn tensor_metadata(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.clone(), datatype: spec.datatype.to_string(), shape: spec.shape.clone() }
}

fn statistics(model: &Model) -> ModelStatistics {
    let statistics = &model.statistics;
    let duration = |durations: &Durations| {
        let (count, ns) = durations.get();
        Some(StatisticDuration { count, ns })
    };
    ModelStatistics {
        name: model.identity.name.to_string(),
        version: model.version_text.clone(),
        last_inference: statistics.last_ms(),
        inference_count: statistics.rows(),
        execution_count: statistics.compute_infer.get().0,
        inference_stats: Some(InferStatistics {
            success: duration(&statistics.success),
            fail: duration(&statistics.fail),
            queue: duration(&statistics.queue),
            compute_input: duration(&statistics.compute_input),
            compute_infer: duration(&statistics.compute_infer),
            compute_output: duration(&statistics.compute_output),
            cache_hit: None,
            cache_miss: None,
        }),
        ..ModelStatistics::default()
    }
}
