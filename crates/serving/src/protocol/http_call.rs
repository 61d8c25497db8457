//! The way of a prediction over HTTP, whatever its body is: read within the limits, taken apart, computed, written, and counted.

use std::{sync::Arc, time::Instant};

use authz::Principal;
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use engine::{Signature, tensor::Tensor};
use http::HeaderMap;
use http_body::Body as _;
use model_repository::Model;
use problem::Problem;

use crate::{
    app::App,
    byte_budget::HeldBody,
    inference::{Call, MeasuredPrediction, subject},
    protocol::{body, deadline, offload::offload_if_large, target::Target},
};

/// A prediction whose body has arrived.
pub(crate) struct HttpCall {
    model: Arc<Model>,
    headers: HeaderMap,
    body: Bytes,
    measured: MeasuredPrediction,
}

// === impl HttpCall ===

impl HttpCall {
    /// Finds the model and reads the body.
    pub(crate) async fn read(app: &App, target: &Target, request: Request) -> Result<Self, Problem> {
        let arrived = Instant::now();
        let model = app.repository.resolve(&target.model, &target.version)?;
        let (parts, body) = request.into_parts();
        let caller = parts.extensions.get::<Principal>();
        let bytes = app.bytes.open(subject(caller));
        let due = arrived + app.limits.timeout_max;
        let body = body::read(&parts.headers, body, &bytes, due, app.limits.body_bytes_max).await?;
        let measured = MeasuredPrediction::start(Arc::clone(&model), caller, bytes, arrived);
        Ok(Self { model, headers: parts.headers, body, measured })
    }

    /// Answers it: `read` takes the body apart and keeps for `write` what the answer needs of it.
    pub(crate) async fn answer<R: Send + 'static>(
        mut self,
        app: &App,
        read: impl FnOnce(Bytes, &Signature) -> Result<(Call, R), Problem> + Send + 'static,
        write: impl FnOnce(R, &Model, &[Tensor]) -> Result<Response, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let answer = self.predict(app, read, write).await;
        let bytes = self.measured.bytes.clone();
        Ok(self.measured.finish(answer)?.map(|body| Body::new(HeldBody::new(body, bytes))))
    }

    async fn predict<R: Send + 'static>(
        &mut self,
        app: &App,
        read: impl FnOnce(Bytes, &Signature) -> Result<(Call, R), Problem> + Send + 'static,
        write: impl FnOnce(R, &Model, &[Tensor]) -> Result<Response, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let (body, model) = (std::mem::take(&mut self.body), Arc::clone(&self.model));
        let bytes = body.len();
        self.measured.bytes.hold(bytes)?;
        let held = self.measured.bytes.clone();
        let (mut call, reply) = offload_if_large(bytes, held, move || read(body, &model.signature)).await?;
        call.timeout = deadline::shorter_of(call.timeout, deadline::of_headers(&self.headers)?);
        let outputs = self.measured.compute(call, app.limits.timeout_max).await?;
        let (bytes, model) = (outputs.iter().map(Tensor::bytes_held).sum(), Arc::clone(&self.model));
        let held = self.measured.bytes.clone();
        let answer = offload_if_large(bytes, held, move || write(reply, &model, &outputs)).await?;
        let answer_bytes = usize::try_from(answer.body().size_hint().lower()).unwrap_or(usize::MAX);
        self.measured.bytes.hold_computed(answer_bytes);
        Ok(answer)
    }
}
