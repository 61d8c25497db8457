//! Notes every request that the policy refused, for the audit log. Lies outside of the guard, because the guard refuses.

use std::sync::Arc;

use authz::{Guard, PASSPORT_HEADER, Principal};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, StatusCode};

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

/// The token endpoint records its own refusals.
const TOKEN_PATH: &str = "/api/auth/token";

/// Passes a request on, and notes a 401 or 403.
pub async fn note_denied(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    // The route's template and not the path: what a client makes up must not make ever new records.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let source = Source::of(request.headers(), request.extensions());
    let resource = route.as_deref().map(|route| format!("{} {route}", request.method()));
    let passport = passport(request.headers());
    let response = next.run(request).await;
    let outcome = match response.status() {
        StatusCode::UNAUTHORIZED => Outcome::Failure,
        StatusCode::FORBIDDEN => Outcome::Denied,
        _ => return response,
    };
    if route.as_deref() != Some(TOKEN_PATH) {
        let actor = watch.actor(passport.as_deref());
        let reason = Some(if outcome == Outcome::Denied { "not_permitted" } else { "not_authenticated" });
        watch.app.denials.note(Denial { kind: Kind::Access, outcome, actor, resource, reason, source });
    }
    response
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
