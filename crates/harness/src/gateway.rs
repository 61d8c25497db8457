//! The one question that a service has for a gateway; everything else is the gateway's own test.

use std::{net::SocketAddr, path::Path};

use authz::{PassportClaims, SigningKey, generate_pkcs8_pem, jwks_json};
use identity::{Identity, IdentityConfig};
use policy::{Role, Roles};
use proto::auth::v1::{
    AuthorizeRequest, AuthorizeResponse, PassportKeysRequest, PassportKeysResponse, WatchRevocationsRequest,
    WatchRevocationsResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use testkit::ca::Ca;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use transport::{Limits, ListenConfig, Server};

const MADE: &str = "a test's gateway can be made";

/// Publishes passport keys until it is dropped, and signs passports with them.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    signer: SigningKey,
    stop: CancellationToken,
}

struct Keys(String);

// === impl Gateway ===

impl Gateway {
    pub(crate) async fn start(ca: &Ca, directory: &Path, service: &str) -> Self {
        let folder = directory.join("gateway-1");
        ca.issue("gateway", "gateway-1", &folder);
        let identity = Identity::load(&IdentityConfig { directory: folder }).expect(MADE);
        let listen: ListenConfig =
            serde_json::from_value(serde_json::json!({ "address": "127.0.0.1:0", "peers": { "/": [service] } }))
                .expect(MADE);
        let server = Server::bind(&listen, identity, Limits::default()).await.expect(MADE);
        let address = server.local_addr();
        let signer = SigningKey::from_pkcs8_pem(&generate_pkcs8_pem().expect(MADE)).expect(MADE);
        let keys = AuthorizationServer::new(Keys(jwks_json(&[signer.public().clone()])));
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(tonic::service::Routes::new(keys).into_axum_router(), stop.clone()));
        Self { address, signer, stop }
    }

    /// A passport of a minute for a service.
    pub(crate) fn passport(&self, service: &str, roles: &[Role]) -> String {
        let now = authz::Clock::system().now();
        let claims = PassportClaims {
            aud: service.to_owned(),
            sub: "u-1".to_owned(),
            tenant: "t-1".to_owned(),
            roles: roles.iter().copied().collect::<Roles>(),
            client_id: "c-1".to_owned(),
            sid: "s-1".to_owned(),
            jti: "j-1".to_owned(),
            auth_time: now,
            iat: now,
            nbf: now,
            exp: now + 60,
        };
        self.signer.sign(&claims).expect(MADE)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tonic::async_trait]
impl Authorization for Keys {
    type WatchRevocationsStream = tokio_stream::Empty<Result<WatchRevocationsResponse, Status>>;

    async fn authorize(&self, _: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        Err(Status::unimplemented("not asked by services"))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        Err(Status::unimplemented("not asked by services"))
    }

    async fn passport_keys(&self, _: Request<PassportKeysRequest>) -> Result<Response<PassportKeysResponse>, Status> {
        Ok(Response::new(PassportKeysResponse { jwks: self.0.clone() }))
    }
}
