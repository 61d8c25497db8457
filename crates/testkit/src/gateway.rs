//! A gateway with tokens, keys and revocations that a test sets: real passports over mutual TLS, revocations pushed as they happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, UNIX_EPOCH},
};

use authz::{Clock, Guard, PassportClaims, Routes, SigningKey, generate_pkcs8_pem, jwks_json};
use futures::{Stream, StreamExt};
use identity::{Identity, IdentityConfig, PeerList};
use policy::{Action, Caller, Policy, Role, Subject, mlflow_routes};
use proto::{
    auth::v1::{
        AuthorizeRequest, AuthorizeResponse, Heartbeat, PassportKeysRequest, PassportKeysResponse, Snapshot,
        WatchRevocationsRequest, WatchRevocationsResponse,
        authorization_server::{Authorization, AuthorizationServer},
        watch_revocations_response::Event,
    },
    models::v1::{
        ChangeModelRequest, ChangeModelResponse, DesiredModel, DesiredModels, SyncModelsRequest, SyncModelsResponse,
        desired_state_server::{DesiredState, DesiredStateServer},
    },
};
use tokio::{
    runtime::Runtime,
    sync::{broadcast, watch},
};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use transport::{Limits, ListenConfig, Server};

const EXPECT_GATEWAY: &str = "a test's gateway can be made";

/// The gateway of a test, in a runtime of its own so that it can be lost like a process.
pub struct FakeGateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it answers, and what it was asked. A second gateway may share it.
    pub state: Arc<GatewayState>,
    runtime: Option<Runtime>,
}

/// What a fake gateway answers, and what it was asked.
pub struct GatewayState {
    key: SigningKey,
    policy: Arc<Policy>,
    jwks: Mutex<String>,
    /// Valid tokens, and the role each gives.
    tokens: Mutex<BTreeMap<String, Role>>,
    events: broadcast::Sender<WatchRevocationsResponse>,
    /// How many calls of `Authorize` arrived.
    pub authorize_calls: AtomicUsize,
    /// How often the keys were fetched.
    pub key_requests: AtomicUsize,
    /// For how long its passports are valid.
    pub passport_life_s: AtomicU64,
    /// Client address and trace of each `Authorize`.
    pub origins: Mutex<Vec<(String, String)>>,
    /// The version of every user's rights.
    pub authz_version: AtomicU64,
    /// How far it has applied the feed of changes.
    pub feed_position: AtomicU64,
    /// Whether answers are marked as from a gateway without a database.
    pub is_stale: AtomicBool,
    /// While this is so, `Authorize` does not answer.
    pub is_hung: watch::Sender<bool>,
    /// Whether each model should serve, and the generation of that.
    pub desired: Mutex<(u64, BTreeMap<String, bool>)>,
    /// While this is so, its database does not answer, which has the desired state of models.
    pub is_cut: AtomicBool,
}

// === impl FakeGateway ===

impl FakeGateway {
    /// Starts one with the certificate in `identity`, for these peers, at this address (port 0 takes a free one).
    pub fn start(identity: &Path, peers: &[&str], address: SocketAddr) -> Self {
        Self::start_with(identity, peers, address, Arc::new(GatewayState::new()))
    }

    /// The same with the state of another one.
    pub fn start_with(identity: &Path, peers: &[&str], address: SocketAddr, state: Arc<GatewayState>) -> Self {
        let identity = Identity::load(&IdentityConfig { directory: identity.to_owned() }).expect(EXPECT_GATEWAY);
        let peers: BTreeSet<String> = peers.iter().map(|peer| (*peer).to_owned()).collect();
        let peers = PeerList::new([("/".to_owned(), peers)].into()).expect(EXPECT_GATEWAY);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect(EXPECT_GATEWAY);
        let (bound, address_of) = mpsc::channel();
        let router = router(&state);
        runtime.spawn(async move {
            tokio::spawn(Arc::clone(&identity).watch(CancellationToken::new()));
            let server = Server::bind(&ListenConfig { address, peers }, identity, Limits::default()).await;
            let server = server.expect(EXPECT_GATEWAY);
            bound.send(server.local_addr()).expect(EXPECT_GATEWAY);
            server.serve(router, CancellationToken::new()).await.expect(EXPECT_GATEWAY);
        });
        Self { address: address_of.recv().expect(EXPECT_GATEWAY), state, runtime: Some(runtime) }
    }

    /// Makes a token valid.
    pub fn grant(&self, token: &str, role: Role) {
        locked(&self.state.tokens).insert(token.to_owned(), role);
    }

    /// Makes a token invalid and pushes the revocation to the watchers.
    pub fn revoke(&self, token: &str) {
        self.revoke_silently(token);
        self.state.push(Event::TokenId(format!("id-{token}")), 0);
    }

    /// Gives the token's user another role, and pushes that to the watchers.
    pub fn change_role(&self, token: &str, role: Role) {
        self.grant(token, role);
        self.state.feed_position.fetch_add(1, Ordering::SeqCst);
        let authz_version = self.state.authz_version.fetch_add(1, Ordering::SeqCst) + 1;
        self.state.push(Event::Subject(format!("u-{token}")), authz_version);
    }

    /// Makes a token invalid without pushing anything.
    pub fn revoke_silently(&self, token: &str) {
        locked(&self.state.tokens).remove(token);
        self.state.feed_position.fetch_add(1, Ordering::SeqCst);
    }

    /// Begins the stream of revocations anew, as a gateway does when events may have been missed.
    pub fn resnapshot(&self) {
        self.state.push(Event::Snapshot(Snapshot {}), 0);
    }

    /// Answers this instead of its own key set from now on.
    pub fn publish_keys(&self, jwks: impl Into<String>) {
        *locked(&self.state.jwks) = jwks.into();
    }

    /// How many calls of `Authorize` arrived.
    pub fn calls(&self) -> usize {
        self.state.authorize_calls.load(Ordering::SeqCst)
    }

    /// A passport of a minute for a service, of user 1.
    pub fn passport(&self, service: &str, roles: &[Role]) -> String {
        self.passport_of("1", service, roles)
    }

    /// The same of another user.
    pub fn passport_of(&self, sub: &str, service: &str, roles: &[Role]) -> String {
        self.state.sign(&claims(service, sub, roles, 60))
    }

    /// Lost at once, with all its sockets.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl GatewayState ===

impl GatewayState {
    fn new() -> Self {
        let key = SigningKey::from_pkcs8_pem(&generate_pkcs8_pem().expect(EXPECT_GATEWAY)).expect(EXPECT_GATEWAY);
        Self {
            jwks: Mutex::new(jwks_json(std::slice::from_ref(key.public()))),
            key,
            policy: Arc::new(Policy::embedded().expect(EXPECT_GATEWAY)),
            tokens: Mutex::default(),
            events: broadcast::Sender::new(100),
            authorize_calls: AtomicUsize::new(0),
            key_requests: AtomicUsize::new(0),
            passport_life_s: AtomicU64::new(60),
            origins: Mutex::default(),
            authz_version: AtomicU64::new(1),
            feed_position: AtomicU64::new(1),
            is_stale: AtomicBool::new(false),
            is_hung: watch::Sender::new(false),
            desired: Mutex::default(),
            is_cut: AtomicBool::new(false),
        }
    }

    /// Makes a model one that should serve or should not, as another replica has it recorded.
    pub fn set_desired(&self, model: &str, loaded: bool) {
        let mut desired = locked(&self.desired);
        if desired.1.insert(model.to_owned(), loaded) != Some(loaded) {
            desired.0 += 1;
        }
    }

    fn desired(&self, change: impl FnOnce(&Self)) -> Result<Option<DesiredModels>, Status> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the database cannot be reached now"));
        }
        change(self);
        let (generation, models) = locked(&self.desired).clone();
        let models = models.into_iter().map(|(name, loaded)| DesiredModel { name, loaded }).collect();
        Ok(Some(DesiredModels { generation, models }))
    }

    fn sign(&self, claims: &PassportClaims) -> String {
        self.key.sign(claims).expect(EXPECT_GATEWAY)
    }

    fn push(&self, event: Event, authz_version: u64) {
        // Without a watcher there is nothing to push.
        let _watchers = self.events.send(self.message(event, authz_version));
    }

    fn message(&self, event: Event, authz_version: u64) -> WatchRevocationsResponse {
        let feed_position = self.feed_position.load(Ordering::SeqCst);
        WatchRevocationsResponse { event: Some(event), authz_version, feed_position }
    }
}

/// The routes of a gateway that tests use, behind the guard as in production; anything else is answered with
/// the `Authorization` that came with it.
#[expect(clippy::disallowed_methods, reason = "the fallback of a test needs no action")]
fn router(state: &Arc<GatewayState>) -> axum::Router {
    let methods = [
        ("Authorize", Action::Authorize),
        ("WatchRevocations", Action::WatchRevocations),
        ("PassportKeys", Action::ReadPassportKeys),
    ];
    let models = [("SyncModels", Action::SyncModels), ("ChangeModel", Action::ChangeDesiredState)];
    let health = [("Check", Action::CheckHealth), ("Watch", Action::CheckHealth)];
    let guard = Arc::new(Guard::new("gateway", Arc::default(), Arc::clone(&state.policy), Clock::system()));
    Routes::new()
        .grpc(Caller::Peer, "rampart.auth.v1.Authorization", &methods, |state: &Arc<GatewayState>| {
            AuthorizationServer::from_arc(Arc::clone(state))
        })
        .grpc(Caller::Peer, "rampart.models.v1.DesiredState", &models, |state: &Arc<GatewayState>| {
            DesiredStateServer::from_arc(Arc::clone(state))
        })
        .grpc(Caller::Peer, "grpc.health.v1.Health", &health, |_| tonic_health::server::health_reporter().1)
        .build(&guard, Arc::clone(state))
        .expect(EXPECT_GATEWAY)
        .reset_fallback()
        .fallback(async |headers: http::HeaderMap| {
            let authorization = headers.get_all(http::header::AUTHORIZATION).iter();
            let seen: Vec<_> = authorization.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
            seen.join("\n")
        })
}

#[tonic::async_trait]
impl Authorization for GatewayState {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        self.authorize_calls.fetch_add(1, Ordering::SeqCst);
        let header = |name: &str| {
            let value = request.metadata().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or("none").to_owned()
        };
        locked(&self.origins).push((header("rampart-client-address"), header("traceparent")));
        let _ = self.is_hung.subscribe().wait_for(|is_hung| !is_hung).await;
        let AuthorizeRequest { token, audience, method, path } = request.into_inner();
        let role = locked(&self.tokens).get(&token).copied();
        let role = role.ok_or_else(|| Status::unauthenticated("no such token"))?;
        let is_third_party = audience == mlflow_routes::AUDIENCE;
        if is_third_party {
            let route = method.parse().ok().and_then(|method| mlflow_routes::find(&method, &path));
            let subject = Subject::User { roles: role.into(), fresh_login: true };
            if !route.is_some_and(|route| self.policy.allows(subject, route.action)) {
                return Err(Status::permission_denied("not with this token"));
            }
        }
        let claims = claims(&audience, &token, &[role], self.passport_life_s.load(Ordering::SeqCst));
        let expires = UNIX_EPOCH + Duration::from_secs(claims.exp);
        Ok(Response::new(AuthorizeResponse {
            passport: if is_third_party { String::new() } else { self.sign(&claims) },
            passport_expires_at: Some(expires.into()),
            token_expires_at: Some((expires + Duration::from_secs(600)).into()),
            subject: claims.sub,
            session_id: claims.sid,
            token_id: format!("id-{token}"),
            stale: self.is_stale.load(Ordering::SeqCst),
            tenant: claims.tenant,
            roles: vec![role.as_str().to_owned()],
            authz_version: self.authz_version.load(Ordering::SeqCst),
            feed_position: self.feed_position.load(Ordering::SeqCst),
        }))
    }

    async fn watch_revocations(
        &self,
        _request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let events = BroadcastStream::new(self.events.subscribe()).filter_map(async |event| event.ok());
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let heartbeat =
            || WatchRevocationsResponse { event: Some(Event::Heartbeat(Heartbeat {})), ..Default::default() };
        let heartbeats = futures::stream::poll_fn(move |cx| ticks.poll_tick(cx).map(|_| Some(heartbeat())));
        let snapshot = self.message(Event::Snapshot(Snapshot {}), 0);
        let all = futures::stream::iter([snapshot]).chain(futures::stream::select(Box::pin(events), heartbeats));
        Ok(Response::new(Box::pin(all.map(Ok))))
    }

    async fn passport_keys(
        &self,
        _request: Request<PassportKeysRequest>,
    ) -> Result<Response<PassportKeysResponse>, Status> {
        self.key_requests.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(PassportKeysResponse { jwks: locked(&self.jwks).clone() }))
    }
}

#[tonic::async_trait]
impl DesiredState for GatewayState {
    async fn sync_models(&self, request: Request<SyncModelsRequest>) -> Result<Response<SyncModelsResponse>, Status> {
        let models = self.desired(|state| {
            for model in request.into_inner().serving {
                if !locked(&state.desired).1.contains_key(&model) {
                    state.set_desired(&model, true);
                }
            }
        })?;
        Ok(Response::new(SyncModelsResponse { models }))
    }

    async fn change_model(
        &self,
        request: Request<ChangeModelRequest>,
    ) -> Result<Response<ChangeModelResponse>, Status> {
        let change = request.into_inner();
        let models = self.desired(|state| state.set_desired(&change.model, change.loaded))?;
        Ok(Response::new(ChangeModelResponse { models }))
    }
}

/// A passport's claims: all ids are those of `token`.
fn claims(audience: &str, token: &str, roles: &[Role], life_s: u64) -> PassportClaims {
    let now = Clock::system().now();
    PassportClaims {
        aud: audience.to_owned(),
        sub: format!("u-{token}"),
        tenant: "tenant".to_owned(),
        roles: roles.iter().copied().collect(),
        client_id: "client".to_owned(),
        sid: format!("s-{token}"),
        jti: format!("j-{token}"),
        auth_time: now,
        token_exp: None,
        iat: now,
        nbf: now,
        exp: now + life_s,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
