//! Queues an audit record for every request that the guard refused. Wraps the guard, because the guard responds.

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
    audit::{Actor, Denial, EventKind, EventOutcome, RequestSource},
};

/// The state of the layer.
#[derive(Clone)]
pub struct AuditDenials {
    /// Has the queue.
    pub app: Arc<App>,
    /// Identifies the caller.
    pub guard: Arc<Guard>,
}

/// Routes that record their own denials, with details that this layer does not have.
const SELF_AUDITED: [&str; 3] = ["/api/auth/token", "/rampart.auth.v1.Authorization/Authorize", "/internal/authorize"];

/// Passes a request on, and queues a denial for a 401 or 403, in HTTP's or gRPC's form.
pub async fn audit_denials(State(layer): State<AuditDenials>, request: Request, next: Next) -> Response {
    // The route's template and not the path: made-up paths must not make ever new records.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let source = RequestSource::of(request.headers(), request.extensions());
    let resource = route.as_deref().map(|route| format!("{} {route}", request.method()));
    let passport = passport(request.headers());
    let response = next.run(request).await;
    let Some(outcome) = denied_outcome(&response) else { return response };
    let is_self_audited = route.as_deref().is_some_and(|route| SELF_AUDITED.contains(&route));
    if !is_self_audited {
        let actor = layer.actor(passport.as_deref());
        let reason = Some(if outcome == EventOutcome::Denied { "not_permitted" } else { "not_authenticated" });
        layer.app.denials.push(Denial { kind: EventKind::Access, outcome, actor, resource, reason, source });
    }
    response
}

/// The outcome of a denied request: an HTTP status, or a gRPC status under a 200.
fn denied_outcome(response: &Response) -> Option<EventOutcome> {
    let grpc_status = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    match (response.status(), grpc_status) {
        (StatusCode::UNAUTHORIZED, _) | (_, Some(b"16")) => Some(EventOutcome::Failure),
        (StatusCode::FORBIDDEN, _) | (_, Some(b"7")) => Some(EventOutcome::Denied),
        _ => None,
    }
}

fn passport(headers: &HeaderMap) -> Option<String> {
    headers.get(PASSPORT_HEADER)?.to_str().ok().map(str::to_owned)
}

// === impl AuditDenials ===

impl AuditDenials {
    fn actor(&self, passport: Option<&str>) -> Actor {
        let principal = self.guard.identify(passport).unwrap_or(Principal::Anonymous);
        SignedInUser::try_from(&principal).map_or(Actor::Anonymous, |user| user.actor())
    }
}
