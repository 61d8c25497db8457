//! Proves who may call what: every route and RPC of every service, out of the code, against one committed table and
//! against a running platform, for every role, for anonymous callers, and with every kind of bad token.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use authz::{AccessTokenClaims, SigningKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use end_to_end::{
    checkout::repository,
    platform::Platform,
    request::{Protocol, Template},
};
use http::{Method, StatusCode};
use identity::{PeerList, PeerName};
use policy::{Caller, DeclaredRoute, Policy, Role, Subject, render_matrix};
use serde_json::{Value, json};

const UNAUTHENTICATED: i32 = 16;
const PERMISSION_DENIED: i32 = 7;
/// The name of the admin port's table, and the crate that declares it.
const ADMIN: (&str, &str) = ("admin", "service");
/// The same of the model registry's, a third party that declares nothing itself.
const REGISTRY: (&str, &str) = (policy::mlflow_routes::AUDIENCE, "policy");

/// The balancer's message for a path that has no service, and a service's for one that has no route.
const NO_ROUTE_MESSAGES: [&str; 2] = ["there is nothing at this path", "nothing answers "];

fn tables() -> Vec<(&'static str, Vec<DeclaredRoute>)> {
    vec![
        // The admin port, which every service has from this crate.
        (ADMIN.0, service::declared_routes()),
        ("balancer", balancer::declared_routes()),
        ("gateway", gateway::declared_routes()),
        ("serving", serving::declared_routes()),
        ("sla", sla::declared_routes()),
        ("backup", backup::declared_routes()),
        // `rampart dev` has no registry: a caller with the right gets an error that says so, every other one is refused.
        (REGISTRY.0, policy::mlflow_routes::declared_routes()),
    ]
}

/// The list above is written by hand; a crate that declares routes and is not in it would be forgotten.
#[test]
fn every_crate_that_declares_routes_is_in_the_matrix() {
    let mut declaring = BTreeSet::new();
    for entry in fs::read_dir(repository().join("crates")).unwrap().flatten() {
        let sources = rust_files(&entry.path().join("src"));
        if sources.iter().any(|path| fs::read_to_string(path).unwrap().contains("pub fn declared_routes(")) {
            declaring.insert(entry.file_name().into_string().unwrap());
        }
    }
    let crate_of = |table: &str| [ADMIN, REGISTRY].iter().find(|(name, _)| *name == table).map(|(_, krate)| *krate);
    let listed: BTreeSet<_> = tables().into_iter().map(|(name, _)| crate_of(name).unwrap_or(name).to_owned()).collect();
    assert_eq!(declaring, listed);
}

/// Both edges reach every route of a client, and each its own calls besides: nginx one, the balancer the rest.
#[test]
fn an_edge_reaches_the_routes_of_clients_and_its_own_calls() {
    let is_service = |name: &&(&str, Vec<DeclaredRoute>)| !["admin", "balancer", REGISTRY.0].contains(&name.0);
    for (service, declared) in tables().iter().filter(is_service) {
        let rules = topology::service(service).unwrap().peers.iter();
        let owned = |callers: &[&str]| callers.iter().map(ToString::to_string).collect();
        let peers = PeerList::new(rules.map(|(path, callers)| (path.to_string(), owned(callers))).collect()).unwrap();
        let reaches = |name: &str, path: &str| {
            peers.allows(path, &PeerName { service: name.to_owned(), instance: format!("{name}-1") })
        };
        for DeclaredRoute { path, caller, .. } in declared {
            let example = path.replace(['{', '}'], "");
            let is_clients = *caller == Caller::User;
            let is_edge_call = path == "/internal/authorize";
            let is_replica_call = path.starts_with("/rampart.models.v1.DesiredState/");
            assert_eq!(reaches("edge", &example), is_clients || is_edge_call, "edge: {service} {path}");
            let is_balancer_call = !is_edge_call && !is_replica_call;
            assert_eq!(reaches("balancer", &example), is_balancer_call, "balancer: {service} {path}");
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `RAMPART_UPDATE=1 cargo test -p end-to-end --test matrix` writes it.
#[test]
fn the_committed_matrix_is_what_the_code_declares() {
    let path = repository().join("security/rbac-policies/matrix.txt");
    let now = render_matrix(&tables(), &Policy::embedded().unwrap());
    if std::env::var_os("RAMPART_UPDATE").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "a route or a right changed: look at it, then RAMPART_UPDATE=1 cargo test -p end-to-end --test matrix"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_every_role_as_the_policies_say() {
    let platform = Platform::start(&[]).unwrap();
    let policy = Policy::embedded().unwrap();
    let bad_tokens = bad_tokens(&platform).unwrap();
    unknown_paths_do_not_count_as_served(&platform).await.unwrap();
    let mut faults = Vec::new();
    let mut calls = 0;
    // What services answer to each other and the balancer to clients: the balancer's answer is among those that are checked.
    let by_balancer = balancer::declared_routes();
    for (service, declared) in tables() {
        for route in declared.iter().filter(|route| route.caller == Caller::User) {
            let place = format!("{service} {} {}", route.method, route.path);
            let mut check = |who: &str, expected: Expected, got: CallResult| {
                calls += 1;
                if !expected.holds(got) {
                    faults.push(format!("{place} as {who}: expected {expected:?}, got {got:?}"));
                }
            };
            let anonymous = policy.allows(Subject::Anonymous, route.action);
            let expected = if anonymous { Expected::Served } else { Expected::Unauthenticated };
            check("anonymous", expected, call(&platform, route, None).await.unwrap());
            for (kind, token) in &bad_tokens {
                let expected = if anonymous { Expected::AsAnonymous } else { Expected::Unauthenticated };
                check(kind, expected, call(&platform, route, Some(token)).await.unwrap());
            }
            for role in Role::ALL.iter().copied() {
                // Tokens of the platform's accounts are minutes old at most: every login here is fresh.
                let allowed = policy.allows(Subject::User { roles: role.into(), fresh_login: true }, route.action);
                let expected = if allowed { Expected::Served } else { Expected::Denied };
                let token = platform.token(role.as_str()).unwrap();
                check(role.as_str(), expected, call(&platform, route, Some(&token)).await.unwrap());
            }
        }
        let is_own = |path: &str| by_balancer.iter().any(|route| route.caller == Caller::User && route.path == path);
        for route in declared.iter().filter(|route| route.caller == Caller::Peer && !is_own(&route.path)) {
            let got = call(&platform, route, Some(&platform.token("admin").unwrap())).await.unwrap();
            if got.is_served() {
                faults.push(format!("{service} {}: a call between services can be made from outside", route.path));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {calls} calls:\n{}", faults.len(), faults.join("\n"));
    assert!(calls > 300, "the routes are found: {calls} calls");
    platform.stop(&[]).unwrap();
}

/// The control of [`NO_ROUTE_MESSAGES`]: without it a reworded message would let every lost route pass.
async fn unknown_paths_do_not_count_as_served(platform: &Platform) -> anyhow::Result<()> {
    let token = platform.token("analyst")?;
    for (path, token) in [("/nowhere", None), ("/v2/nowhere", Some(token.as_str()))] {
        let seen = seen(platform, &Template::json(Method::GET, path, token, "")?, false).await?;
        ensure!(!seen.is_served(), "{path} counts as a route: {seen:?}");
    }
    Ok(())
}

/// The result that a call must have.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Anything that is no refusal: the call may still be wrong in itself.
    Served,
    /// On a route without a token a bad one may be refused or ignored; it gives no further right.
    AsAnonymous,
    Unauthenticated,
    Denied,
}

/// The result of a call: HTTP status, gRPC status if it was gRPC, and whether it says that there is no such route.
#[derive(Clone, Copy, Debug)]
struct CallResult {
    http: StatusCode,
    grpc: Option<i32>,
    is_no_route: bool,
}

// === impl Expected ===

impl Expected {
    fn holds(self, seen: CallResult) -> bool {
        match self {
            Self::Served => seen.is_served(),
            Self::AsAnonymous => seen.is_served() || seen.refusal() == Some(AuthFailure::Unauthenticated),
            Self::Unauthenticated => seen.refusal() == Some(AuthFailure::Unauthenticated),
            Self::Denied => seen.refusal() == Some(AuthFailure::Denied),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AuthFailure {
    Unauthenticated,
    Denied,
}

// === impl CallResult ===

impl CallResult {
    fn refusal(self) -> Option<AuthFailure> {
        match (self.grpc, self.http) {
            (Some(UNAUTHENTICATED), _) | (None, StatusCode::UNAUTHORIZED) => Some(AuthFailure::Unauthenticated),
            (Some(PERMISSION_DENIED), _) | (None, StatusCode::FORBIDDEN) => Some(AuthFailure::Denied),
            _ => None,
        }
    }

    /// Reached a handler: not refused, a known route, no server error.
    fn is_served(self) -> bool {
        let is_grpc_fault = matches!(self.grpc, Some(12 | 13 | 14 | 2));
        let is_unknown_route = self.grpc.is_none() && self.http == StatusCode::METHOD_NOT_ALLOWED;
        let is_fault = self.http.is_server_error() || is_grpc_fault || is_unknown_route || self.is_no_route;
        self.refusal().is_none() && !is_fault
    }
}

async fn call(platform: &Platform, route: &DeclaredRoute, token: Option<&str>) -> anyhow::Result<CallResult> {
    let is_grpc =
        route.path.contains('.') && !route.path.starts_with("/.well-known") && !route.path.starts_with("/api/");
    let template = if is_grpc {
        Template::grpc(&route.path, token, &())?
    } else {
        // Nothing that is there: a call that is let through must not change the platform under the next one.
        let path = route.path.replace("{id}", "00000000-0000-0000-0000-000000000000");
        let path = path.replace("{service}", "ml-services");
        let path: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "nothing-here" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let body = if matches!(route.method, Method::POST | Method::PATCH) { "{}" } else { "" };
        Template::json(route.method.clone(), &path, token, body)?
    };
    seen(platform, &template, is_grpc).await.with_context(|| format!("{} {}", route.method, route.path))
}

async fn seen(platform: &Platform, template: &Template, is_grpc: bool) -> anyhow::Result<CallResult> {
    let answer = platform.front.server(Protocol::Http2)?.connect().await?.call(template).await?;
    let body = String::from_utf8_lossy(&answer.body);
    // A route that was lost beside another method of its path is 405.
    let is_no_route = answer.status == StatusCode::METHOD_NOT_ALLOWED
        || answer.status == StatusCode::NOT_FOUND && NO_ROUTE_MESSAGES.iter().any(|words| body.contains(words));
    Ok(CallResult { http: answer.status, grpc: if is_grpc { answer.grpc_status() } else { None }, is_no_route })
}

/// Tokens that must be good for nothing, made from the admin's good one.
fn bad_tokens(platform: &Platform) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let good = platform.token("admin")?;
    let mut parts = good.split('.');
    let mut part = || -> anyhow::Result<Value> {
        let bytes = URL_SAFE_NO_PAD.decode(parts.next().context("three parts")?)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let (header, payload) = (part()?, part()?);
    let mut claims: AccessTokenClaims = serde_json::from_value(payload.clone())?;
    let platform_key = SigningKey::from_pkcs8_pem(&platform.secret("gateway", "access-signing-key.pem")?)?;
    let foreign = SigningKey::from_pkcs8_pem(&authz::generate_pkcs8_pem()?)?.sign(&claims)?;
    claims.iat -= 3600;
    claims.nbf -= 3600;
    claims.exp -= 3600;
    let expired = platform_key.sign(&claims)?;
    let none = json!({ "alg": "none", "typ": header.get("typ"), "kid": header.get("kid") });
    let unsigned = [none, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".") + ".";
    let (start, signature) = good.rsplit_once('.').context("three parts")?;
    let reversed: String = signature.chars().rev().collect();
    Ok(BTreeMap::from([
        ("no token at all but a word", "wrong".to_owned()),
        ("expired", expired),
        ("foreign-signed", foreign),
        ("alg none", unsigned),
        ("another signature", format!("{start}.{reversed}")),
    ]))
}
