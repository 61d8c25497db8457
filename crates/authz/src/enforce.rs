//! The tower layer in front of one route: no handler runs before the guard allowed it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, extract::Request, response::Response};
use futures::future::Either;
use http::{HeaderMap, header};
use identity::PeerName;
use policy::{Action, Caller};
use problem::{Form, Kind, Problem};
use tower::{Layer, Service};

use crate::{Guard, Principal, TokenError};

/// The header that carries a passport between services.
pub const PASSPORT_HEADER: &str = "rampart-passport";

/// Wraps the handler of one route.
#[derive(Clone)]
pub(crate) struct EnforceLayer {
    pub(crate) guard: Arc<Guard>,
    pub(crate) action: Action,
    pub(crate) caller: Caller,
}

/// A handler that only permitted callers reach.
#[derive(Clone)]
pub(crate) struct Enforce<S> {
    inner: S,
    rule: EnforceLayer,
}

// === impl EnforceLayer ===

impl<S> Layer<S> for EnforceLayer {
    type Service = Enforce<S>;

    fn layer(&self, inner: S) -> Enforce<S> {
        Enforce { inner, rule: self.clone() }
    }
}

impl EnforceLayer {
    fn admit(&self, request: &Request) -> Result<Principal, Problem> {
        let principal = self.principal(request)?;
        self.guard.check(&principal, self.action)?;
        Ok(principal)
    }

    /// Who calls.
    pub(crate) fn principal(&self, request: &Request) -> Result<Principal, Problem> {
        match self.caller {
            Caller::User => passport(request.headers())
                .and_then(|passport| self.guard.identify(passport))
                .map_err(|reject| self.guard.reject(reject, self.action)),
            Caller::Peer => peer(request),
        }
    }
}

/// With two passports, two readers could use different ones, so there is one or none.
fn passport(headers: &HeaderMap) -> Result<Option<&str>, TokenError> {
    let mut values = headers.get_all(PASSPORT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(TokenError::Malformed);
    }
    value.to_str().map(Some).map_err(|_| TokenError::Malformed)
}

fn peer(request: &Request) -> Result<Principal, Problem> {
    let peer = request.extensions().get::<PeerName>();
    let peer = peer.ok_or_else(|| Problem::new(Kind::Unauthenticated, "this needs the certificate of a service"))?;
    Ok(Principal::Service(peer.clone()))
}

/// A problem in the form of the route that was asked for.
pub(crate) fn answer(problem: &Problem, request: &Request) -> Response {
    let form = Form::of(request.uri().path(), request.headers().get(header::CONTENT_TYPE));
    problem.response(form).map(Body::from)
}

// === impl Enforce ===

impl<S> Service<Request> for Enforce<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match self.rule.admit(&request) {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Either::Left(self.inner.call(request))
            }
            Err(problem) => Either::Right(ready(Ok(answer(&problem, &request)))),
        }
    }
}
