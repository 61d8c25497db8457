//! What a bearer token is worth: a passport to one of our services, or a yes to one request at a third party, which cannot
//! check passports. Answered from memory only.

use std::{sync::Arc, time::Instant};

use authz::{AccessTokenClaims, Guard, PassportClaims, Principal, TokenError, UnixTime};
use http::Method;
use policy::mlflow_routes;
use problem::{Kind, Problem};

use crate::{
    app::App,
    audit::{self, Actor, Denial, Source},
    memory::{Judgement, KnownUser, Late},
    metrics::{self, Outcome},
};

/// Judges tokens for one gateway.
#[derive(Clone)]
pub struct Access {
    app: Arc<App>,
    guard: Arc<Guard>,
}

/// What somebody asks for a client.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's bearer token.
    pub token: &'a str,
    /// The service or the third party that the client wants to reach.
    pub audience: &'a str,
    /// The client's HTTP method; matters for a third party only.
    pub method: &'a str,
    /// The path of the client's request as it was sent, without the query; matters for a third party only.
    pub path: &'a str,
}

/// A yes. Cannot be printed.
pub struct Granted {
    /// What the token says.
    pub claims: AccessTokenClaims,
    /// For a service of ours; a third party could not read it.
    pub passport: Option<String>,
    /// Until when all of this is true.
    pub expires_at: UnixTime,
}

/// A no.
enum Refusal {
    /// The question is not one.
    Unasked(Box<Problem>),
    /// The token is not good, by its own text or by what we know.
    Bad { reason: &'static str, actor: Actor },
    /// The token is good, and the request is not for its owner.
    Denied { problem: Box<Problem>, actor: Actor, resource: String },
    /// The token cannot be judged now.
    Late,
    /// A fault of ours.
    Failed(Box<Problem>),
}

// === impl Access ===

impl Access {
    /// Judges by what this gateway knows and by the policies of this guard.
    pub fn new(app: Arc<App>, guard: Arc<Guard>) -> Self {
        Self { app, guard }
    }

    /// Answers, counts, and has a refusal recorded.
    pub async fn authorize(&self, asked: Asked<'_>, source: Source) -> Result<Granted, Problem> {
        let started = Instant::now();
        let answer = self.answer(asked).await;
        let outcome = answer.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Ok);
        metrics::attempt(metrics::Method::AccessToken, outcome, started.elapsed());
        answer.map_err(|refusal| self.refuse(refusal, source))
    }

    async fn answer(&self, asked: Asked<'_>) -> Result<Granted, Refusal> {
        let is_third_party = asked.audience == mlflow_routes::AUDIENCE;
        if !is_third_party && !self.app.audiences.contains(asked.audience) {
            let problem = Problem::new(Kind::InvalidArgument, "no service of this name takes passports");
            return Err(Refusal::Unasked(Box::new(problem.field("audience"))));
        }
        let (claims, user) = self.judge(asked.token).await?;
        let passport = self.app.tokens.passport_claims(&claims, &user, asked.audience, self.app.unix_now());
        let passport = passport.ok_or_else(|| Refusal::of(&claims, reason_of(TokenError::Expired)))?;
        let expires_at = passport.exp;
        let passport = if is_third_party {
            self.check_request(&asked, &claims, passport)?;
            None
        } else {
            let signed = self.app.tokens.issue_passport(&passport);
            Some(signed.map_err(|error| Refusal::Failed(Box::new(Problem::internal(error))))?)
        };
        Ok(Granted { claims, passport, expires_at })
    }

    async fn judge(&self, token: &str) -> Result<(AccessTokenClaims, KnownUser), Refusal> {
        let app = &self.app;
        let claims = app.tokens.verify_access(token, app.unix_now()).map_err(|reject| self.bad(token, reject))?;
        let mut judgement = app.memory.read(|known| known.judge(&claims));
        if judgement == Judgement::Behind {
            // Signed by us, but of a user or a version that this gateway has not heard of yet: another one made it.
            app.memory.look_again().await?;
            judgement = app.memory.read(|known| known.judge(&claims));
        }
        match judgement {
            Judgement::Good(user) => Ok((claims, user)),
            Judgement::Refused(reason) => Err(Refusal::of(&claims, reason)),
            Judgement::Behind => Err(Refusal::of(&claims, "unknown_user")),
        }
    }

    /// May who has the passport make this request? What the third party's table does not name, nobody may.
    fn check_request(
        &self,
        asked: &Asked<'_>,
        claims: &AccessTokenClaims,
        passport: PassportClaims,
    ) -> Result<(), Refusal> {
        let route = asked.method.parse::<Method>().ok().and_then(|method| mlflow_routes::find(&method, asked.path));
        let Some(route) = route else {
            // By the third party's name alone: what a client makes up must not make ever new records.
            let problem =
                Problem::new(Kind::PermissionDenied, "this is nothing that may be asked of the model registry");
            return Err(Refusal::Denied {
                problem: Box::new(problem),
                actor: actor_of(claims),
                resource: asked.audience.to_owned(),
            });
        };
        self.guard.check(&Principal::User(Arc::new(passport)), route.action).map_err(|problem| Refusal::Denied {
            problem: Box::new(problem),
            actor: actor_of(claims),
            resource: format!("{} {}", route.method, route.path),
        })
    }

    /// The text of a token that is not ours says nothing about anybody; one that is over was still somebody's.
    fn bad(&self, token: &str, reject: TokenError) -> Refusal {
        let owner = if reject == TokenError::Expired { self.app.tokens.owner_of_access(token).ok() } else { None };
        let reason = reason_of(reject);
        owner.map_or(Refusal::Bad { reason, actor: Actor::Anonymous }, |claims| Refusal::of(&claims, reason))
    }

    fn refuse(&self, refusal: Refusal, source: Source) -> Problem {
        match refusal {
            Refusal::Unasked(problem) | Refusal::Failed(problem) => *problem,
            Refusal::Late => Problem::unavailable("this token is newer than what is known here"),
            Refusal::Bad { reason, actor } => {
                tracing::debug!(reason, "token refused");
                self.app.denials.note(Denial {
                    kind: audit::Kind::Authorize,
                    outcome: audit::Outcome::Failure,
                    actor,
                    resource: None,
                    reason: Some(reason),
                    source,
                });
                Problem::new(Kind::Unauthenticated, "the token is not valid, or no longer")
            }
            Refusal::Denied { problem, actor, resource } => {
                self.app.denials.note(Denial {
                    kind: audit::Kind::Access,
                    outcome: audit::Outcome::Denied,
                    actor,
                    resource: Some(resource),
                    reason: Some("not_permitted"),
                    source,
                });
                *problem
            }
        }
    }

    /// Whether a gateway that has heard of everything could answer otherwise.
    pub fn is_stale(&self) -> bool {
        !self.app.memory.is_fresh()
    }
}

// === impl Refusal ===

impl Refusal {
    fn of(claims: &AccessTokenClaims, reason: &'static str) -> Self {
        Self::Bad { reason, actor: actor_of(claims) }
    }

    /// Of the proof of identity: one that was good stays so, whatever it is good for.
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unasked(_) => Outcome::Invalid,
            Self::Bad { .. } => Outcome::Refused,
            Self::Denied { .. } => Outcome::Ok,
            Self::Late | Self::Failed(_) => Outcome::Unavailable,
        }
    }
}

impl From<Late> for Refusal {
    fn from(_: Late) -> Self {
        Self::Late
    }
}

fn actor_of(claims: &AccessTokenClaims) -> Actor {
    let id = claims.sub.parse().ok();
    id.map_or(Actor::Anonymous, |id| Actor::User { id, session: claims.sid.parse().ok() })
}

fn reason_of(reject: TokenError) -> &'static str {
    match reject {
        TokenError::TooLong => "too_long",
        TokenError::Malformed => "malformed",
        TokenError::WrongAlgorithm => "wrong_algorithm",
        TokenError::WrongType => "wrong_type",
        TokenError::UnknownKey => "unknown_key",
        TokenError::BadSignature => "bad_signature",
        TokenError::WrongIssuer => "wrong_issuer",
        TokenError::WrongAudience => "wrong_audience",
        TokenError::Expired => "expired",
        TokenError::NotYet => "not_yet",
        TokenError::LifetimeTooLong => "lifetime_too_long",
    }
}
