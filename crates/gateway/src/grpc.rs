//! `rampart.auth.v1.Authorization`: passports for tokens, and revocations, answered from the auth state only.
//! `rampart.models.v1.DesiredState`: which models should serve, answered from the database only.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use prost_types::Timestamp;
use proto::{
    auth::v1::{
        AuthorizeRequest, AuthorizeResponse, PassportKeysRequest, PassportKeysResponse, WatchRevocationsRequest,
        WatchRevocationsResponse, authorization_server::Authorization,
    },
    models::v1::{
        ChangeModelRequest, ChangeModelResponse, SyncModelsRequest, SyncModelsResponse,
        desired_state_server::DesiredState,
    },
};
use tonic::{Request, Response, Status};

use crate::{
    app::App,
    audit::RequestSource,
    authorizer::{AuthorizeQuery, Authorizer},
    desired_state::ModelChange,
    revocation_stream::{WatcherSlots, watch},
};

/// The largest request: a token and a path of 4 KiB each, and names, with room.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The same for the desired state: as many names as a replica can have, with room.
pub const MODELS_BYTES_MAX: usize = 32 * 1024;

/// The service.
#[derive(Clone)]
pub struct Service {
    app: Arc<App>,
    authorizer: Authorizer,
    watchers: WatcherSlots,
}

/// The service of the desired state.
#[derive(Clone)]
pub struct Models(Arc<App>);

// === impl Service ===

impl Service {
    /// Answers for one gateway.
    pub fn new(app: Arc<App>, authorizer: Authorizer) -> Self {
        Self { app, authorizer, watchers: WatcherSlots::default() }
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let source = RequestSource::of(&headers, request.extensions());
        let AuthorizeRequest { token, audience, method, path } = request.into_inner();
        let query = AuthorizeQuery { token: &token, audience: &audience, method: &method, path: &path };
        let authorized = self.authorizer.authorize(query, source).await?;
        Ok(Response::new(AuthorizeResponse {
            passport: authorized.passport.unwrap_or_default(),
            passport_expires_at: Some(timestamp(authorized.expires_at)),
            token_expires_at: Some(timestamp(authorized.claims.exp)),
            subject: authorized.claims.sub,
            session_id: authorized.claims.sid,
            token_id: authorized.claims.jti,
            stale: self.authorizer.is_stale(),
            tenant: authorized.tenant.as_str().to_owned(),
            roles: authorized.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            authz_version: authorized.authz_version,
            feed_position: authorized.feed_position,
        }))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let slot = self.watchers.acquire()?;
        Ok(Response::new(Box::pin(watch(&self.app.auth_state, self.app.stop.clone(), slot))))
    }

    async fn passport_keys(&self, _: Request<PassportKeysRequest>) -> Result<Response<PassportKeysResponse>, Status> {
        Ok(Response::new(PassportKeysResponse { jwks: self.app.tokens.passport_jwks().to_owned() }))
    }
}

// === impl Models ===

impl Models {
    /// Answers for one gateway.
    pub fn new(app: Arc<App>) -> Self {
        Self(app)
    }
}

#[tonic::async_trait]
impl DesiredState for Models {
    async fn sync_models(&self, request: Request<SyncModelsRequest>) -> Result<Response<SyncModelsResponse>, Status> {
        let models = Some(self.0.sync_models(&request.into_inner().serving).await?);
        Ok(Response::new(SyncModelsResponse { models }))
    }

    async fn change_model(
        &self,
        request: Request<ChangeModelRequest>,
    ) -> Result<Response<ChangeModelResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let source = RequestSource::of(&headers, request.extensions());
        let change = ModelChange::parse(&request.into_inner())?;
        let models = Some(self.0.change_model(&change, source).await?);
        Ok(Response::new(ChangeModelResponse { models }))
    }
}

fn timestamp(unix: authz::UnixTime) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix).unwrap_or(i64::MAX), nanos: 0 }
}
