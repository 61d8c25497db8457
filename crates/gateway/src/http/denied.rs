//! Notes every request that the policy refused, for the audit log. Lies outside of the guard, because the guard refuses.

use std::sync::Arc;

use authz::{Guard, PASSPORT_HEADER, Principal};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{
    app::{App, SignedInUser},
    audit::{Actor, Denial, Kind, Outcome, Source},
};

/// What the layer needs.
#[derive(Clone)]
pub struct Watch {
    /// Takes the notes.
    pub app: Arc<App>,
    /// Knows who asked.
    pub guard: Arc<Guard>,
}

/// Proofs of identity are judged there, and what is wrong with them is recorded there, with more than could be said here.
/// So is what a good one is not good for.
const OWN_RECORDS: [&str; 3] = ["/api/auth/token", "/rampart.auth.v1.Authorization/Authorize", "/internal/authorize"];

/// Passes a request on, and notes a 401 or 403, however it is written.
pub async fn note_denied(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    // The route's template and not the path: what a client makes up must not make ever new records.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let source = Source::of(request.headers(), request.extensions());
    let resource = route.as_deref().map(|route| format!("{} {route}", request.method()));
    let passport = passport(request.headers());
    let response = next.run(request).await;
    let Some(outcome) = refusal(&response) else { return response };
    let is_recorded_there = route.as_deref().is_some_and(|route| OWN_RECORDS.contains(&route));
    if !is_recorded_there {
        let actor = watch.actor(passport.as_deref());
        let reason = Some(if outcome == Outcome::Denied { "not_permitted" } else { "not_authenticated" });
        watch.app.denials.note(Denial { kind: Kind::Access, outcome, actor, resource, reason, source });
    }
    response
}

/// A refusal is a status of HTTP, or of gRPC under a 200.
fn refusal(response: &Response) -> Option<Outcome> {
    let grpc_status = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    match (response.status(), grpc_status) {
        (StatusCode::UNAUTHORIZED, _) | (_, Some(b"16")) => Some(Outcome::Failure),
        (StatusCode::FORBIDDEN, _) | (_, Some(b"7")) => Some(Outcome::Denied),
        _ => None,
    }
}

fn passport(headers: &HeaderMap) -> Option<String> {
    headers.get(PASSPORT_HEADER)?.to_str().ok().map(str::to_owned)
}

// === impl Watch ===

impl Watch {
    fn actor(&self, passport: Option<&str>) -> Actor {
        let principal = self.guard.identify(passport).unwrap_or(Principal::Anonymous);
        SignedInUser::try_from(&principal).map_or(Actor::Anonymous, |user| user.actor())
    }
}
