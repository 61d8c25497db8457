//! Routes behind the guard: what is let through, and what is answered to the rest, over HTTP and gRPC.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use authz::{PASSPORT_HEADER, Principal, Routes, RoutesError};
use axum::{Extension, Router, body::Body, extract::State, response::Response};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use identity::PeerName;
use policy::{Action, Caller, DeclaredRoute, Role};
use proto::sla::v1::{
    ReportMinutesRequest, ReportMinutesResponse,
    ledger_client::LedgerClient,
    ledger_server::{Ledger, LedgerServer},
};
use tonic::Code;
use tower::ServiceExt;

use crate::support::{Gateway, ManualClock, NOW};

const LEDGER: &str = "rampart.sla.v1.Ledger";

/// Counts how often a handler ran.
#[derive(Clone, Default)]
struct App(Arc<AtomicUsize>);

impl App {
    fn ran(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

async fn who(State(app): State<App>, Extension(principal): Extension<Principal>) -> String {
    app.0.fetch_add(1, Ordering::SeqCst);
    principal.to_string()
}

struct Grpc(App);

#[tonic::async_trait]
impl Ledger for Grpc {
    async fn report_minutes(
        &self,
        request: tonic::Request<ReportMinutesRequest>,
    ) -> Result<tonic::Response<ReportMinutesResponse>, tonic::Status> {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(request.extensions().get::<Principal>(), Some(Principal::Service(_))));
        let recorded = u32::try_from(request.into_inner().minutes.len()).unwrap();
        Ok(tonic::Response::new(ReportMinutesResponse { recorded }))
    }
}

fn routes() -> Routes<App> {
    Routes::new()
        .route(Method::GET, "/v2/health/live", Action::ReadInferenceHealth, who)
        .route(Method::POST, "/v2/models/{model}/infer", Action::Infer, who)
        .route(Method::GET, "/api/admin/users", Action::ReadUsers, who)
        .route(Method::POST, "/api/admin/users", Action::ManageUsers, who)
        .route_for(Caller::Peer, Method::GET, "/metrics", Action::ReadAdminPort, who)
        .grpc(Caller::Peer, LEDGER, &[("ReportMinutes", Action::ReportMinutes)], |app: &App| {
            LedgerServer::new(Grpc(app.clone()))
        })
}

fn service(gateway: &Gateway) -> (Router, App) {
    let app = App::default();
    (routes().build(&gateway.guard(&ManualClock::at(NOW)), app.clone()).unwrap(), app)
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

fn with_passport(mut request: Request<Body>, passport: &str) -> Request<Body> {
    request.headers_mut().append(PASSPORT_HEADER, passport.parse().unwrap());
    request
}

fn from_peer(mut request: Request<Body>, service: &str) -> Request<Body> {
    request.extensions_mut().insert(PeerName { service: service.into(), instance: format!("{service}-1") });
    request
}

async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_handler_runs_for_those_who_may_and_knows_who_they_are() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let live = send(&router, request(Method::GET, "/v2/health/live")).await;
    assert_eq!((live.status(), text(live).await.as_str()), (StatusCode::OK, "anonymous"));

    let infer = with_passport(request(Method::POST, "/v2/models/m/infer"), &gateway.passport(Role::Analyst));
    assert_eq!(text(send(&router, infer).await).await, "user:0198-user");

    let metrics = from_peer(request(Method::GET, "/metrics"), "operator");
    assert_eq!(text(send(&router, metrics).await).await, "service:operator/operator-1");
    assert_eq!(app.ran(), 3);
}

#[tokio::test]
async fn a_refusal_has_the_form_of_its_route_and_no_handler_runs() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let viewer = gateway.passport(Role::Viewer);

    let response = send(&router, request(Method::GET, "/api/admin/users")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"rampart\"");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert!(text(response).await.contains("\"status\":401"));

    let response = send(&router, with_passport(request(Method::GET, "/api/admin/users"), &viewer)).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(text(response).await.contains("\"status\":403"));

    let response = send(&router, with_passport(request(Method::POST, "/v2/models/m/infer"), &viewer)).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(text(response).await.starts_with("{\"error\":"));
    assert_eq!(app.ran(), 0);
}

#[tokio::test]
async fn a_bad_passport_is_refused_on_every_route_even_an_anonymous_one() {
    let (gateway, attacker) = (Gateway::new(), Gateway::new());
    let (router, app) = service(&gateway);
    for declared in routes().table().into_iter().filter(|declared| declared.caller == Caller::User) {
        let call = || request(declared.method.clone(), &declared.path.replace("{model}", "m"));
        for bad in ["", "x", &attacker.passport(Role::Admin)] {
            let response = send(&router, with_passport(call(), bad)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{} {bad:?}", declared.path);
        }
        let good = gateway.passport(Role::Admin);
        let twice = with_passport(with_passport(call(), &good), &good);
        assert_eq!(send(&router, twice).await.status(), StatusCode::UNAUTHORIZED, "two passports");
        let mut not_ascii = call();
        not_ascii.headers_mut().insert(PASSPORT_HEADER, http::HeaderValue::from_bytes(&[0xff, 0x80]).unwrap());
        assert_eq!(send(&router, not_ascii).await.status(), StatusCode::UNAUTHORIZED, "not ASCII");
    }
    assert_eq!(app.ran(), 0);
}

#[tokio::test]
async fn people_and_services_cannot_stand_in_for_each_other() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let admin = gateway.passport(Role::Admin);
    // An admin's passport opens no route of services, not even beside the certificate of another service.
    let call = with_passport(request(Method::GET, "/metrics"), &admin);
    assert_eq!(send(&router, call).await.status(), StatusCode::UNAUTHORIZED);
    let call = with_passport(from_peer(request(Method::GET, "/metrics"), "serving"), &admin);
    assert_eq!(send(&router, call).await.status(), StatusCode::FORBIDDEN);
    // On a route for people a certificate does not identify the caller.
    let call = from_peer(request(Method::GET, "/api/admin/users"), "operator");
    assert_eq!(send(&router, call).await.status(), StatusCode::UNAUTHORIZED);
    // A bearer token, or a header that only resembles the real one, does nothing here.
    let mut call = request(Method::GET, "/api/admin/users");
    call.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {admin}").parse().unwrap());
    call.headers_mut().insert("x-rampart-passport", admin.parse().unwrap());
    assert_eq!(send(&router, call).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.ran(), 0);
}

#[tokio::test]
async fn what_is_not_declared_is_not_there() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let admin = gateway.passport(Role::Admin);
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/api/admin/users/"),
        (Method::GET, "/api//admin/users"),
        (Method::GET, "/API/admin/users"),
        (Method::from_bytes(b"BREW").unwrap(), "/pot"),
    ] {
        let response = send(&router, with_passport(request(method.clone(), path), &admin)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{method} {path}");
    }
    let mut overridden = request(Method::GET, "/api/admin/users");
    overridden.headers_mut().insert("x-http-method-override", "POST".parse().unwrap());
    assert_eq!(send(&router, overridden).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.ran(), 0);
    // HEAD is GET without a body, and under the same action.
    assert_eq!(send(&router, request(Method::HEAD, "/api/admin/users")).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(send(&router, request(Method::HEAD, "/v2/health/live")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_method_is_405_for_callers_who_may_use_a_right_one() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let (admin, viewer) = (gateway.passport(Role::Admin), gateway.passport(Role::Viewer));
    for (method, path, allowed) in [
        (Method::DELETE, "/api/admin/users", "GET, HEAD, POST"),
        (Method::OPTIONS, "/api/admin/users", "GET, HEAD, POST"),
        (Method::TRACE, "/api/admin/users", "GET, HEAD, POST"),
        (Method::from_bytes(b"BREW").unwrap(), "/api/admin/users", "GET, HEAD, POST"),
        (Method::PUT, "/v2/health/live", "GET, HEAD"),
    ] {
        let response = send(&router, with_passport(request(method.clone(), path), &admin)).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(response.headers()[header::ALLOW], allowed, "{method} {path}");
        let is_inference = path.starts_with("/v2");
        assert!(text(response).await.starts_with("{\"error\":") == is_inference, "in the form of its route");
    }
    // Who may not use the path learns no more of it than with a right method.
    for (passport, status) in [(None, 401), (Some(&*viewer), 403), (Some("forged"), 401)] {
        let call = request(Method::DELETE, "/api/admin/users");
        let call = passport.into_iter().fold(call, with_passport);
        let response = send(&router, call).await;
        assert_eq!(response.status(), status, "{passport:?}");
        assert!(!response.headers().contains_key(header::ALLOW), "{passport:?}");
    }
    let metrics = || with_passport(request(Method::POST, "/metrics"), &admin);
    assert_eq!(send(&router, metrics()).await.status(), StatusCode::UNAUTHORIZED, "it is for services");
    let operator = from_peer(metrics(), "operator");
    assert_eq!(send(&router, operator).await.headers()[header::ALLOW], "GET, HEAD");
    let mut grpc = from_peer(request(Method::PUT, "/rampart.sla.v1.Ledger/ReportMinutes"), "balancer");
    grpc.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    assert_eq!(send(&router, grpc).await.headers()["grpc-status"], "12");
    assert_eq!(app.ran(), 0);
}

#[tokio::test]
async fn grpc_is_guarded_method_by_method_and_refused_in_trailers() {
    let gateway = Gateway::new();
    let (router, app) = service(&gateway);
    let call = async |peer: Option<&'static str>| {
        let add_peer = move |mut request: Request<tonic::body::Body>| {
            if let Some(service) = peer {
                request.extensions_mut().insert(PeerName { service: service.into(), instance: "x".into() });
            }
            request
        };
        let channel = tower::ServiceBuilder::new().map_request(add_peer).service(router.clone());
        LedgerClient::new(channel).report_minutes(ReportMinutesRequest::default()).await
    };
    assert_eq!(call(Some("balancer")).await.unwrap().into_inner().recorded, 0);
    assert_eq!(app.ran(), 1);
    assert_eq!(call(Some("serving")).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(call(None).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(app.ran(), 1);

    for path in ["/rampart.sla.v1.Ledger/Other", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        let mut unknown = request(Method::POST, path);
        unknown.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        let response = send(&router, unknown).await;
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
    }
}

#[test]
fn the_table_lists_every_route_with_its_action() {
    let declared = |method, path: &str, action, caller| DeclaredRoute { method, path: path.into(), action, caller };
    assert_eq!(
        routes().table(),
        [
            declared(Method::GET, "/v2/health/live", Action::ReadInferenceHealth, Caller::User),
            declared(Method::POST, "/v2/models/{model}/infer", Action::Infer, Caller::User),
            declared(Method::GET, "/api/admin/users", Action::ReadUsers, Caller::User),
            declared(Method::POST, "/api/admin/users", Action::ManageUsers, Caller::User),
            declared(Method::GET, "/metrics", Action::ReadAdminPort, Caller::Peer),
            declared(Method::POST, "/rampart.sla.v1.Ledger/ReportMinutes", Action::ReportMinutes, Caller::Peer),
        ]
    );
}

#[test]
fn a_grpc_method_without_an_action_cannot_be_built() {
    let gateway = Gateway::new();
    let guard = gateway.guard(&ManualClock::at(NOW));
    let build = |service: &str, methods: &[(&str, Action)]| {
        let make = |app: &App| LedgerServer::new(Grpc(app.clone()));
        routes().grpc(Caller::Peer, service, methods, make).build(&guard, App::default()).unwrap_err()
    };
    let missing = build("rampart.auth.v1.Authorization", &[("Authorize", Action::Authorize)]);
    let RoutesError::Methods { missing, surplus, .. } = missing else { panic!("{missing}") };
    assert_eq!((missing, surplus), (vec!["PassportKeys".to_owned(), "WatchRevocations".to_owned()], vec![]));

    let methods = [("ReportMinutes", Action::ReportMinutes), ("DropMinutes", Action::ReportMinutes)];
    assert!(matches!(build(LEDGER, &methods), RoutesError::Methods { surplus, .. } if surplus == ["DropMinutes"]));
    assert!(matches!(build(LEDGER, &[]), RoutesError::Methods { missing, .. } if missing == ["ReportMinutes"]));
    assert!(matches!(build("rampart.sla.v2.Ledger", &[]), RoutesError::NoService(_)));
    assert!(matches!(build("Ledger", &[]), RoutesError::NoService(_)));
    let health = [("Check", Action::CheckHealth), ("Watch", Action::CheckHealth)];
    assert!(matches!(build("grpc.health.v1.Health", &health[..1]), RoutesError::Methods { .. }));
}

#[test]
fn one_route_has_one_handler() {
    let guard = Gateway::new().guard(&ManualClock::at(NOW));
    let twice = routes().route(Method::GET, "/api/admin/users", Action::ReadHealth, who);
    assert!(matches!(twice.build(&guard, App::default()), Err(RoutesError::Twice { .. })));
    let odd = routes().route(Method::from_bytes(b"BREW").unwrap(), "/pot", Action::ReadHealth, who);
    assert!(matches!(odd.build(&guard, App::default()), Err(RoutesError::Method { .. })));
}
