//! A gateway that knows what a test tells it: real passports, signed; revocations pushed as they happen.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use authz::{PassportClaims, SigningKey};
use axum::Router;
use futures::{Stream, StreamExt};
use policy::{Policy, Role, Roles, Subject, mlflow_routes};
use proto::auth::v1::{
    AuthorizeRequest, AuthorizeResponse, Heartbeat, PassportKeysRequest, PassportKeysResponse, Snapshot,
    WatchRevocationsRequest, WatchRevocationsResponse,
    authorization_server::{Authorization, AuthorizationServer},
    watch_revocations_response::Event,
};
use tokio::{runtime::Runtime, sync::broadcast};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use crate::{upstream::serve, world::World};

pub struct Gateway {
    pub address: SocketAddr,
    pub state: Arc<State>,
    runtime: Option<Runtime>,
}

pub struct State {
    key: SigningKey,
    policy: Policy,
    /// Tokens that are good, and the role each gives.
    tokens: Mutex<BTreeMap<String, Role>>,
    pub calls: AtomicUsize,
    pub passport_life_s: Mutex<u64>,
    /// For whom it was asked: client address and trace.
    pub origins: Mutex<Vec<(String, String)>>,
    /// Says that it has not heard from its database for a while.
    pub is_stale: AtomicBool,
    /// How long it takes to answer.
    pub delay_ms: AtomicU64,
    events: broadcast::Sender<Event>,
}

impl Gateway {
    pub fn start(world: &World, instance: &str, address: SocketAddr) -> Self {
        let key = SigningKey::from_pkcs8_pem(&authz::generate_pkcs8_pem().unwrap()).unwrap();
        let state = State {
            key,
            policy: Policy::embedded().unwrap(),
            tokens: Mutex::default(),
            calls: AtomicUsize::new(0),
            passport_life_s: Mutex::new(60),
            origins: Mutex::default(),
            is_stale: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            events: broadcast::Sender::new(100),
        };
        Self::start_with(world, instance, address, Arc::new(state))
    }

    pub fn start_with(world: &World, instance: &str, address: SocketAddr, state: Arc<State>) -> Self {
        let service = AuthorizationServer::from_arc(Arc::clone(&state));
        let router = tonic::service::Routes::new(service).into_axum_router().reset_fallback();
        let router = router.merge(Router::new().fallback(async || "gateway"));
        let (runtime, address, _) = serve(world.identity(instance), address, router);
        Self { address, state, runtime: Some(runtime) }
    }

    pub fn grant(&self, token: &str, role: Role) {
        self.state.tokens.lock().unwrap().insert(token.into(), role);
    }

    /// Ends a token here, and tells those who listen.
    pub fn revoke(&self, token: &str) {
        self.forget(token);
        let _ = self.state.events.send(Event::TokenId(format!("id of {token}")));
    }

    /// Begins its stream of revocations anew, as if something might have been missed.
    pub fn begin_anew(&self) {
        let _ = self.state.events.send(Event::Snapshot(Snapshot {}));
    }

    /// Ends a token here, and tells nobody.
    pub fn forget(&self, token: &str) {
        self.state.tokens.lock().unwrap().remove(token);
    }

    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tonic::async_trait]
impl Authorization for State {
    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let named =
            |name: &str| request.metadata().get(name).map_or("none", |value| value.to_str().unwrap()).to_owned();
        self.origins.lock().unwrap().push((named("rampart-client-address"), named("traceparent")));
        // What a slow database takes; not a state that could be waited for.
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
        let AuthorizeRequest { token, audience, method, path } = request.into_inner();
        let role = self.tokens.lock().unwrap().get(&token).copied();
        let role = role.ok_or_else(|| Status::unauthenticated("no such token"))?;
        let is_third_party = audience == mlflow_routes::AUDIENCE;
        if is_third_party {
            let route = method.parse().ok().and_then(|method| mlflow_routes::find(&method, &path));
            let subject = Subject::User { roles: role.into(), fresh_login: true };
            if !route.is_some_and(|route| self.policy.allows(subject, route.action)) {
                return Err(Status::permission_denied("not with this token"));
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let life_s = *self.passport_life_s.lock().unwrap();
        let claims = PassportClaims {
            aud: audience,
            sub: format!("subject of {token}"),
            tenant: "tenant".into(),
            roles: Roles::from_iter([role]),
            client_id: "client".into(),
            sid: format!("session of {token}"),
            jti: format!("passport of {token}"),
            auth_time: now,
            iat: now,
            nbf: now,
            exp: now + life_s,
        };
        let expires = UNIX_EPOCH + Duration::from_secs(claims.exp);
        Ok(Response::new(AuthorizeResponse {
            passport: if is_third_party { String::new() } else { self.key.sign(&claims).unwrap() },
            passport_expires_at: Some(expires.into()),
            token_expires_at: Some((expires + Duration::from_secs(600)).into()),
            subject: claims.sub,
            session_id: claims.sid,
            token_id: format!("id of {token}"),
            stale: self.is_stale.load(Ordering::SeqCst),
        }))
    }

    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn watch_revocations(
        &self,
        _request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let events = BroadcastStream::new(self.events.subscribe()).filter_map(async |event| event.ok());
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let heartbeats =
            futures::stream::poll_fn(move |cx| ticks.poll_tick(cx).map(|_| Some(Event::Heartbeat(Heartbeat {}))));
        let snapshot = futures::stream::once(async { Event::Snapshot(Snapshot {}) });
        let all = snapshot.chain(futures::stream::select(Box::pin(events), heartbeats));
        Ok(Response::new(Box::pin(all.map(|event| Ok(WatchRevocationsResponse { event: Some(event) })))))
    }

    async fn passport_keys(
        &self,
        _request: Request<PassportKeysRequest>,
    ) -> Result<Response<PassportKeysResponse>, Status> {
        Ok(Response::new(PassportKeysResponse { jwks: authz::jwks_json(std::slice::from_ref(self.key.public())) }))
    }
}
