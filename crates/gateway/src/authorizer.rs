//! Exchanges a bearer token for a passport to a service, or allows one request to a third party, which cannot check
//! passports. Answered from the auth state only, never from the database.

use std::{sync::Arc, time::Instant};

use authz::{AccessTokenClaims, Guard, PassportClaims, Principal, TokenError, UnixTime};
use http::Method;
use policy::{Roles, mlflow_routes};
use problem::{Kind, Problem};

use crate::{
    app::App,
    audit::{self, Actor, Denial, RequestSource},
    auth_state::{PollTimeout, TokenVerdict, UserRights},
    metrics::{self, AuthOutcome},
    user::Tenant,
};

/// Answers authorize queries for one gateway.
#[derive(Clone)]
pub struct Authorizer {
    app: Arc<App>,
    guard: Arc<Guard>,
}

/// What a balancer or the edge asks about a client's request.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizeQuery<'a> {
    /// The client's bearer token.
    pub token: &'a str,
    /// The service or the third party that the client wants to reach.
    pub audience: &'a str,
    /// The client's HTTP method; matters for a third party only.
    pub method: &'a str,
    /// The path of the client's request as it was sent, without the query; matters for a third party only.
    pub path: &'a str,
}

/// A granted query. Cannot be printed.
pub struct Authorized {
    /// What the token says.
    pub claims: AccessTokenClaims,
    /// The user's tenant now.
    pub tenant: Tenant,
    /// The user's roles now.
    pub roles: Roles,
    /// For a service of this platform; a third party could not verify it.
    pub passport: Option<String>,
    /// Until when it may be cached.
    pub expires_at: UnixTime,
    /// The version of the user's rights that it was granted by.
    pub authz_version: u64,
    /// The last entry of the feed that had been applied.
    pub feed_position: u64,
}

/// Why a query is not granted.
enum AuthorizeError {
    /// The query itself is wrong.
    InvalidRequest(Box<Problem>),
    /// The token is not valid, by its own text or by the auth state.
    InvalidToken { reason: &'static str, actor: Actor },
    /// The token is valid, and the policies refuse the request.
    Denied { problem: Box<Problem>, actor: Actor, resource: String },
    /// The auth state lags behind the token, so it cannot be checked now.
    StateLagging,
    /// A fault of this gateway.
    Internal(Box<Problem>),
}

// === impl Authorizer ===

impl Authorizer {
    /// Answers by the auth state of `app` and the policies of `guard`.
    pub fn new(app: Arc<App>, guard: Arc<Guard>) -> Self {
        Self { app, guard }
    }

    /// Answers a query, counts it, and queues a denial for the audit log.
    pub async fn authorize(&self, query: AuthorizeQuery<'_>, source: RequestSource) -> Result<Authorized, Problem> {
        let started = Instant::now();
        let result = self.decide(query).await;
        let outcome = result.as_ref().map_or_else(AuthorizeError::outcome, |_| AuthOutcome::Ok);
        metrics::auth_attempt(metrics::AuthMethod::AccessToken, outcome, started.elapsed());
        result.map_err(|error| self.record_denial(error, source))
    }

    async fn decide(&self, query: AuthorizeQuery<'_>) -> Result<Authorized, AuthorizeError> {
        let is_third_party = query.audience == mlflow_routes::AUDIENCE;
        if !is_third_party && !self.app.audiences.contains(query.audience) {
            let problem = Problem::new(Kind::InvalidArgument, "no service of this name takes passports");
            return Err(AuthorizeError::InvalidRequest(Box::new(problem.field("audience"))));
        }
        let (claims, user, feed_position) = self.verify_token(query.token).await?;
        let passport = self.app.tokens.passport_claims(&claims, &user, query.audience, self.app.unix_now());
        let passport = passport.ok_or_else(|| AuthorizeError::of(&claims, TokenError::Expired.into()))?;
        let expires_at = passport.exp;
        let passport = if is_third_party {
            self.check_request(&query, &claims, passport)?;
            None
        } else {
            let signed = self.app.tokens.issue_passport(&passport);
            Some(signed.map_err(|error| AuthorizeError::Internal(Box::new(Problem::internal(error))))?)
        };
        let authz_version = user.authz_version();
        let UserRights { tenant, roles, .. } = user;
        Ok(Authorized { claims, tenant, roles, passport, expires_at, authz_version, feed_position })
    }

    /// What a valid token says, its user's rights, and the place in the feed that both are as of.
    async fn verify_token(&self, token: &str) -> Result<(AccessTokenClaims, UserRights, u64), AuthorizeError> {
        let app = &self.app;
        let claims =
            app.tokens.verify_access(token, app.unix_now()).map_err(|reject| self.invalid_token(token, reject))?;
        let judge = || app.auth_state.read(|index| (index.judge(&claims), index.position()));
        let (mut verdict, mut feed_position) = judge();
        if verdict == TokenVerdict::StateLagging {
            // Signed by a gateway, for a user or version that is not applied here yet: another gateway made it.
            app.auth_state.poll_again().await.map_err(|PollTimeout| AuthorizeError::StateLagging)?;
            (verdict, feed_position) = judge();
        }
        match verdict {
            TokenVerdict::Valid(user) => Ok((claims, user, feed_position)),
            TokenVerdict::Invalid(reason) => Err(AuthorizeError::of(&claims, reason)),
            TokenVerdict::StateLagging => Err(AuthorizeError::of(&claims, "unknown_user")),
        }
    }

    /// Checks the request by the policies. What the third party's table does not name is refused.
    fn check_request(
        &self,
        query: &AuthorizeQuery<'_>,
        claims: &AccessTokenClaims,
        passport: PassportClaims,
    ) -> Result<(), AuthorizeError> {
        let route = query.method.parse::<Method>().ok().and_then(|method| mlflow_routes::find(&method, query.path));
        let Some(route) = route else {
            // Recorded by the third party's name alone: made-up paths must not make ever new records.
            let problem =
                Problem::new(Kind::PermissionDenied, "this is nothing that may be asked of the model registry");
            return Err(AuthorizeError::Denied {
                problem: Box::new(problem),
                actor: actor_of(claims),
                resource: query.audience.to_owned(),
            });
        };
        self.guard.check(&Principal::User(Arc::new(passport)), route.action).map_err(|problem| AuthorizeError::Denied {
            problem: Box::new(problem),
            actor: actor_of(claims),
            resource: format!("{} {}", route.method, route.path),
        })
    }

    /// A token with a wrong signature says nothing about its user; an expired one still names its owner.
    fn invalid_token(&self, token: &str, reject: TokenError) -> AuthorizeError {
        let owner = if reject == TokenError::Expired { self.app.tokens.owner_of_access(token).ok() } else { None };
        let reason = reject.into();
        owner.map_or(AuthorizeError::InvalidToken { reason, actor: Actor::Anonymous }, |claims| {
            AuthorizeError::of(&claims, reason)
        })
    }

    fn record_denial(&self, error: AuthorizeError, source: RequestSource) -> Problem {
        match error {
            AuthorizeError::InvalidRequest(problem) | AuthorizeError::Internal(problem) => *problem,
            AuthorizeError::StateLagging => Problem::unavailable("this token is newer than what is known here"),
            AuthorizeError::InvalidToken { reason, actor } => {
                tracing::debug!(reason, "token refused");
                self.app.denials.push(Denial {
                    kind: audit::EventKind::Authorize,
                    outcome: audit::EventOutcome::Failure,
                    actor,
                    resource: None,
                    reason: Some(reason),
                    source,
                });
                Problem::new(Kind::Unauthenticated, "the token is not valid, or no longer")
            }
            AuthorizeError::Denied { problem, actor, resource } => {
                self.app.denials.push(Denial {
                    kind: audit::EventKind::Access,
                    outcome: audit::EventOutcome::Denied,
                    actor,
                    resource: Some(resource),
                    reason: Some("not_permitted"),
                    source,
                });
                *problem
            }
        }
    }

    /// Whether the auth state is stale, so that another gateway could answer otherwise.
    pub fn is_stale(&self) -> bool {
        !self.app.auth_state.is_fresh()
    }
}

// === impl AuthorizeError ===

impl AuthorizeError {
    fn of(claims: &AccessTokenClaims, reason: &'static str) -> Self {
        Self::InvalidToken { reason, actor: actor_of(claims) }
    }

    /// The outcome of the authentication: a valid token counts as one, also when the policies refuse the request.
    fn outcome(&self) -> AuthOutcome {
        match self {
            Self::InvalidRequest(_) => AuthOutcome::Invalid,
            Self::InvalidToken { .. } => AuthOutcome::Refused,
            Self::Denied { .. } => AuthOutcome::Ok,
            Self::StateLagging | Self::Internal(_) => AuthOutcome::Unavailable,
        }
    }
}

fn actor_of(claims: &AccessTokenClaims) -> Actor {
    let id = claims.sub.parse().ok();
    id.map_or(Actor::Anonymous, |id| Actor::User { id, session: claims.sid.parse().ok() })
}
