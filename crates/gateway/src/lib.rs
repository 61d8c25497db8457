#![doc = include_str!("../README.md")]

pub mod app;
pub mod audit;
pub mod auth_state;
pub mod authorizer;
pub mod clock;
pub mod config;
pub mod desired_state;
pub mod error;
pub mod grant;
pub mod grpc;
pub mod http;
mod jobs;
pub mod metrics;
pub mod password;
pub mod random_secrets;
mod revocation_stream;
pub mod session;
pub mod store;
pub mod throttle;
pub mod token;
pub mod user;

use std::{num::NonZeroU32, sync::Arc};

use ::http::Method;
use authz::{Guard, PassportKeys, Routes};
use axum::{Router, extract::FromRef, middleware};
use database::DatabaseConfig;
use governor::{Quota, RateLimiter};
use policy::{Action, Caller, DeclaredRoute, Policy};
use proto::{
    auth::v1::authorization_server::{self, AuthorizationServer},
    models::v1::desired_state_server::{self, DesiredStateServer},
};
use service::{BoxError, Lifecycle};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use transport::{Limits, Server};

use crate::{
    app::App, audit::Denials, auth_state::AuthState, authorizer::Authorizer, clock::WallClock, config::Config,
    password::Hasher, store::Store, throttle::Throttle, token::Tokens,
};

/// The service's name, and the audience of its passports.
const NAME: &str = topology::name::GATEWAY;

/// One that listens, one that polls, and one in place of one that hangs.
const FEED_CONNECTIONS_MAX: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

/// The state of the routes.
#[derive(Clone)]
pub struct RouteState {
    app: Arc<App>,
    authorizer: Authorizer,
}

/// How often one machine may sign in at one gateway: a token lives for minutes.
const MACHINE_QUOTA: Quota =
    Quota::per_second(NonZeroU32::new(5).expect("5 is not 0")).allow_burst(NonZeroU32::new(50).expect("50 is not 0"));

/// Starts a gateway: wires its parts, and returns when its tasks run.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    metrics::register();
    let (identity, stop, clock) = (lifecycle.identity(), lifecycle.soft_stop(), WallClock::system());

    // The feed is followed on connections of its own, or a flood of sign-ins could delay revocations.
    let feed_config = DatabaseConfig { pool: "feed", connections_max: FEED_CONNECTIONS_MAX, ..config.database.clone() };
    let writer = identity.name().instance;
    let feed = Store::new(database::connect(&feed_config)?, writer.clone(), clock.clone());
    let database = database::connect(&config.database)?;
    let auth_db_permits_max = usize::try_from(config.database.connections_max.get() / 2)?.max(1);
    let policy = Arc::new(Policy::embedded()?);
    let denials = Denials::new(policy.policy_set_hash());
    let app = Arc::new(App {
        store: Store::new(database, writer, clock.clone()),
        auth_state: Arc::new(AuthState::default()),
        tokens: Tokens::load(&config.tokens)?,
        hasher: Hasher::new(config.passwords.concurrency.get(), config.passwords.queue_max)?,
        throttle: Throttle::default(),
        machine_rate: RateLimiter::keyed(MACHINE_QUOTA),
        denials,
        auth_db_permits: Semaphore::new(auth_db_permits_max),
        network_permit: Semaphore::new(1),
        clock: clock.clone(),
        audiences: config.tokens.audiences.into_iter().collect(),
        bootstrap_token: config.bootstrap.token_file,
        stop: stop.clone(),
    });

    // Passports are verified as in every other service, but with the keys at hand.
    let passport_keys = PassportKeys::default();
    passport_keys.replace(app.tokens.passport_jwks())?;
    let guard = Arc::new(Guard::new(NAME, Arc::new(passport_keys), policy, clock.unix()));

    let router = router(&app, &guard, &lifecycle)?;
    let server = Server::bind(&config.listen, identity, limits()).await?;
    lifecycle.listening("main", server.local_addr());

    let known = lifecycle.latch("users and revocations");
    let served = CancellationToken::new();
    lifecycle.spawn("audit", jobs::write_denials(Arc::clone(&app), served.clone()));
    // Boxed: a task is moved several times while it begins, and without optimization each time through the stack.
    lifecycle.spawn_critical("jobs", Box::pin(jobs::run(app, feed, known, lifecycle.readiness(), stop.clone())));
    lifecycle.spawn_critical("listener", async move {
        let result = server.serve(router, stop).await;
        // The last denials are written after the last request.
        served.cancel();
        result
    });
    Ok(())
}

/// Every route, with its action.
pub fn routes() -> Routes<RouteState> {
    use http::{audit, authorize, jwks, me, metadata, openapi, revoke, token, users};
    Routes::new()
        .route(Method::POST, "/api/auth/token", Action::IssueToken, token::token)
        .route(Method::POST, "/api/auth/revoke", Action::RevokeOwnToken, revoke::revoke)
        .route(Method::GET, "/api/auth/me", Action::ReadOwnAccount, me::me)
        .route(Method::GET, "/api/admin/users", Action::ReadUsers, users::list)
        .route(Method::POST, "/api/admin/users", Action::ManageUsers, users::create)
        .route(Method::GET, "/api/admin/users/{id}", Action::ReadUsers, users::get)
        .route(Method::PATCH, "/api/admin/users/{id}", Action::ManageUsers, users::change)
        .route(Method::DELETE, "/api/admin/users/{id}", Action::ManageUsers, users::delete)
        .route(Method::POST, "/api/admin/users/{id}/revoke", Action::RevokeTokens, users::revoke)
        .route(Method::GET, "/api/admin/audit", Action::ReadAudit, audit::list)
        .route(Method::GET, "/.well-known/jwks.json", Action::ReadJwks, jwks::jwks)
        .route(Method::GET, metadata::PATH, Action::ReadAuthMetadata, metadata::metadata)
        .route(Method::GET, "/api/openapi.json", Action::ReadOpenapi, openapi::openapi)
        .route_for(Caller::Peer, Method::GET, "/internal/authorize", Action::AuthorizeSubrequest, authorize::authorize)
        .grpc(
            Caller::Peer,
            authorization_server::SERVICE_NAME,
            &[
                ("Authorize", Action::Authorize),
                ("WatchRevocations", Action::WatchRevocations),
                ("PassportKeys", Action::ReadPassportKeys),
            ],
            |state: &RouteState| {
                AuthorizationServer::new(grpc::Service::new(Arc::clone(&state.app), state.authorizer.clone()))
                    .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            },
        )
        .grpc(
            Caller::Peer,
            desired_state_server::SERVICE_NAME,
            &[("SyncModels", Action::SyncModels), ("ChangeModel", Action::ChangeDesiredState)],
            |state: &RouteState| {
                DesiredStateServer::new(grpc::Models::new(Arc::clone(&state.app)))
                    .max_decoding_message_size(grpc::MODELS_BYTES_MAX)
            },
        )
}

/// The routes as a table, for the matrix of roles and actions.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    service::route_table(routes())
}

/// The layers, from the inside out: the guard of each route, the audit of its denials, metrics and traces.
fn router(app: &Arc<App>, guard: &Arc<Guard>, lifecycle: &Lifecycle) -> Result<Router, BoxError> {
    let authorizer = Authorizer::new(Arc::clone(app), Arc::clone(guard));
    let state = RouteState { app: Arc::clone(app), authorizer };
    let templates: Vec<String> = declared_routes().into_iter().map(|declared| declared.path).collect();
    let audit_denials = http::audit_denials::AuditDenials { app: Arc::clone(app), guard: Arc::clone(guard) };
    Ok(service::router(routes(), guard, state, lifecycle)?
        .layer(middleware::from_fn_with_state(audit_denials, http::audit_denials::audit_denials))
        .layer(telemetry::http_layer().with_routes(templates.iter().map(String::as_str))))
}

fn limits() -> Limits {
    Limits { body_bytes_max: http::payload::BODY_BYTES_MAX, ..Limits::default() }
}

// === impl RouteState ===

impl FromRef<RouteState> for Authorizer {
    fn from_ref(state: &RouteState) -> Self {
        state.authorizer.clone()
    }
}

impl FromRef<RouteState> for Arc<App> {
    fn from_ref(state: &RouteState) -> Self {
        Arc::clone(&state.app)
    }
}
