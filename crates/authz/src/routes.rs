//! The routes of a service, each with the action it stands for.
//!
//! There is no way to mount a handler without an action: [`Routes`] has no method that would. For a gRPC service, every
//! method of the contract must be named, or nothing is built.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::Request,
    handler::Handler,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, any_service, on, on_service},
};
use http::Method;
use policy::{Action, Caller, DeclaredRoute};
use problem::Problem;
use tower::Service;

use crate::{
    Guard,
    enforce::{EnforceLayer, answer},
    grpc_methods,
    wrong_method::WrongMethod,
};

/// Why the routes make no router.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Two handlers for one route.
    #[error("{method} {path} is declared twice")]
    Twice {
        /// The method.
        method: Method,
        /// The path.
        path: String,
    },
    /// A method of HTTP that axum cannot route.
    #[error("{path} is declared for the method {method}, which cannot be routed")]
    Method {
        /// The method.
        method: Method,
        /// The path.
        path: String,
    },
    /// The contract has no such service.
    #[error("no gRPC service is called {0}")]
    NoService(String),
    /// The contract has methods without an action, or actions are declared for methods that it lacks.
    #[error("gRPC service {service}: without an action {missing:?}, not in the contract {surplus:?}")]
    Methods {
        /// The service.
        service: String,
        /// In the contract only.
        missing: Vec<String>,
        /// DeclaredRoute only.
        surplus: Vec<String>,
    },
}

/// Routes under construction. `S` is the state that handlers take.
///
/// ```
/// # use {authz::Routes, http::Method, policy::Action};
/// Routes::<()>::new().route(Method::GET, "/health", Action::ReadHealth, async || "OK");
/// ```
///
/// Without an action it does not compile:
///
/// ```compile_fail
/// # use {authz::Routes, http::Method, policy::Action};
/// Routes::<()>::new().route(Method::GET, "/health", async || "OK");
/// ```
pub struct Routes<S> {
    mounts: Vec<Mount<S>>,
    error: Option<RoutesError>,
}

struct Mount<S> {
    declared: Vec<DeclaredRoute>,
    handler: MakeHandler<S>,
}

/// Everything that is declared for one path.
struct Endpoint<S> {
    rules: Vec<(Method, EnforceLayer)>,
    handlers: MethodRouter<S>,
}

/// Gets the state only when the router is built, so that a table needs none.
type MakeHandler<S> = Box<dyn FnOnce(&S) -> MethodRouter<S>>;

// === impl Routes ===

impl<S> Default for Routes<S> {
    fn default() -> Self {
        Self { mounts: Vec::new(), error: None }
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A route for people and clients: known by their passport, or anonymous.
    #[must_use]
    pub fn route<H, T>(self, method: Method, path: &str, action: Action, handler: H) -> Self
    where
        H: Handler<T, S> + Sync,
        T: 'static,
    {
        self.route_for(Caller::User, method, path, action, handler)
    }

    /// The same for other callers: services are known by their certificate.
    #[must_use]
    pub fn route_for<H, T>(mut self, caller: Caller, method: Method, path: &str, action: Action, handler: H) -> Self
    where
        H: Handler<T, S> + Sync,
        T: 'static,
    {
        let path = path.to_owned();
        let Ok(filter) = MethodFilter::try_from(method.clone()) else {
            return self.fail(RoutesError::Method { method, path });
        };
        let declared = vec![DeclaredRoute { method, path, action, caller }];
        self.mounts.push(Mount { declared, handler: Box::new(move |_| on(filter, handler)) });
        self
    }

    /// A gRPC service, e.g. `rampart.sla.v1.Ledger`, with an action for each of its methods. `make` gets the state when
    /// the router is built and gives tonic's server.
    #[must_use]
    pub fn grpc<T>(
        mut self,
        caller: Caller,
        service: &str,
        methods: &[(&str, Action)],
        make: impl FnOnce(&S) -> T + 'static,
    ) -> Self
    where
        T: Service<Request, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Response: IntoResponse + 'static,
        T::Future: Send + 'static,
    {
        if let Err(error) = grpc_methods::check(service, methods.iter().map(|(method, _)| *method)) {
            return self.fail(error);
        }
        let declare = |(method, action): &(&str, Action)| DeclaredRoute {
            method: Method::POST,
            path: format!("/{service}/{method}"),
            action: *action,
            caller,
        };
        let declared = methods.iter().map(declare).collect();
        let handler = Box::new(move |state: &S| on_service(MethodFilter::POST, make(state)));
        self.mounts.push(Mount { declared, handler });
        self
    }

    fn fail(mut self, error: RoutesError) -> Self {
        self.error.get_or_insert(error);
        self
    }

    /// Every route so far, without building anything.
    pub fn table(&self) -> Vec<DeclaredRoute> {
        self.mounts.iter().flat_map(|mount| mount.declared.iter().cloned()).collect()
    }

    /// The router: each route behind the guard, another method of its path refused, everything else not found. Panics, as axum does, if two paths differ only
    /// in the names of their parameters.
    #[expect(clippy::disallowed_methods, reason = "the one place where routes get their guard")]
    pub fn build(self, guard: &Arc<Guard>, state: S) -> Result<Router, RoutesError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut paths: BTreeMap<String, Endpoint<S>> = BTreeMap::new();
        for mount in self.mounts {
            let handler = (mount.handler)(&state);
            for DeclaredRoute { method, path, action, caller } in mount.declared {
                let endpoint = paths.entry(path.clone()).or_default();
                if endpoint.rules.iter().any(|(known, _)| *known == method) {
                    return Err(RoutesError::Twice { method, path });
                }
                let rule = EnforceLayer { guard: Arc::clone(guard), action, caller };
                let handlers = std::mem::take(&mut endpoint.handlers);
                endpoint.handlers = handlers.merge(handler.clone().route_layer(rule.clone()));
                endpoint.rules.push((method, rule));
            }
        }
        let router = paths.into_iter().fold(Router::new(), |router, (path, Endpoint { rules, handlers })| {
            match WrongMethod::of(&rules) {
                // Before the handlers, because only so axum leaves `Allow` to it.
                Some(wrong_method) => router.route(&path, any_service(wrong_method).merge(handlers)),
                None => router,
            }
        });
        Ok(router.fallback(not_found).with_state(state))
    }
}

impl<S: Clone> Default for Endpoint<S> {
    fn default() -> Self {
        Self { rules: Vec::new(), handlers: MethodRouter::new() }
    }
}

/// What is not declared is not there.
async fn not_found(request: Request) -> Response {
    let detail = format!("nothing answers {} at this path", request.method());
    answer(&Problem::unknown_route(detail), &request)
}
