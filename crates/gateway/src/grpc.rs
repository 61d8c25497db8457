//! `rampart.auth.v1.Authorization`: passports for tokens, and when they end. Answered from memory only.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use prost_types::Timestamp;
use proto::auth::v1::{
    AuthorizeRequest, AuthorizeResponse, PassportKeysRequest, PassportKeysResponse, WatchRevocationsRequest,
    WatchRevocationsResponse, authorization_server::Authorization,
};
use tonic::{Request, Response, Status};

use crate::{
    access::{Access, Asked},
    app::App,
    audit::Source,
    watch::{Watchers, watch},
};

/// The largest request: a token and a path of 4 KiB each, and names, with room.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The service.
#[derive(Clone)]
pub struct Service {
    app: Arc<App>,
    access: Access,
    watchers: Watchers,
}

// === impl Service ===

impl Service {
    /// Answers for one gateway.
    pub fn new(app: Arc<App>, access: Access) -> Self {
        Self { app, access, watchers: Watchers::default() }
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let source = Source::of(&headers, request.extensions());
        let AuthorizeRequest { token, audience, method, path } = request.into_inner();
        let asked = Asked { token: &token, audience: &audience, method: &method, path: &path };
        let granted = self.access.authorize(asked, source).await?;
        Ok(Response::new(AuthorizeResponse {
            passport: granted.passport.unwrap_or_default(),
            passport_expires_at: Some(timestamp(granted.expires_at)),
            token_expires_at: Some(timestamp(granted.claims.exp)),
            subject: granted.claims.sub,
            session_id: granted.claims.sid,
            token_id: granted.claims.jti,
            stale: self.access.is_stale(),
        }))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let place = self.watchers.take()?;
        Ok(Response::new(Box::pin(watch(&self.app.memory, self.app.stop.clone(), place))))
    }

    async fn passport_keys(&self, _: Request<PassportKeysRequest>) -> Result<Response<PassportKeysResponse>, Status> {
        Ok(Response::new(PassportKeysResponse { jwks: self.app.tokens.passport_jwks().to_owned() }))
    }
}

fn timestamp(unix: authz::UnixTime) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix).unwrap_or(i64::MAX), nanos: 0 }
}
