//! What is answered to a method that a declared path does not have.
//!
//! A caller who may use one of the methods is told which they are. Any other gets what the first method would
//! answer, and learns no more of the path than with a right method.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use http::Method;
use problem::Problem;
use tower::Service;

use crate::enforce::{EnforceLayer, answer};

/// The service behind every method of a path that is not declared.
#[derive(Clone)]
pub(crate) struct WrongMethod {
    methods: Arc<[Method]>,
    first: EnforceLayer,
    others: Arc<[EnforceLayer]>,
}

// === impl WrongMethod ===

impl WrongMethod {
    /// For a path with these methods, each with its rule; `None` if there is none.
    pub(crate) fn of(rules: &[(Method, EnforceLayer)]) -> Option<Self> {
        let ((_, first), others) = rules.split_first()?;
        Some(Self {
            methods: rules.iter().map(|(method, _)| method.clone()).collect(),
            first: first.clone(),
            others: others.iter().map(|(_, rule)| rule.clone()).collect(),
        })
    }

    fn problem(&self, request: &Request) -> Problem {
        let principal = match self.first.principal(request) {
            Ok(principal) => principal,
            Err(problem) => return problem,
        };
        let first = &self.first;
        // A principal of one kind of caller says nothing about the other.
        let mut others = self.others.iter().filter(|rule| rule.caller == first.caller);
        if others.any(|rule| first.guard.allows(&principal, rule.action)) {
            return Problem::wrong_method(request.method(), &self.methods);
        }
        match first.guard.check(&principal, first.action) {
            Ok(()) => Problem::wrong_method(request.method(), &self.methods),
            Err(refusal) => refusal,
        }
    }
}

impl Service<Request> for WrongMethod {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(Ok(answer(&self.problem(&request), &request)))
    }
}
