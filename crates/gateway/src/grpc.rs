//! `rampart.auth.v1.Authorization`: passports for tokens, and when they end. Answered from memory only.

use std::{pin::Pin, sync::Arc, time::Instant};

use authz::{AccessTokenClaims, Reject};
use futures::Stream;
use problem::{Kind, Problem};
use prost_types::Timestamp;
use proto::auth::v1::{
    AuthorizeRequest, AuthorizeResponse, PassportKeysRequest, PassportKeysResponse, WatchRevocationsRequest,
    WatchRevocationsResponse, authorization_server::Authorization,
};
use tonic::{Request, Response, Status};

use crate::{
    app::App,
    audit::{self, Actor, Denial, Source},
    memory::{Judgement, KnownUser, Late},
    metrics::{self, Method, Outcome},
    watch::{Watchers, watch},
};

/// The largest request: a token of 4 KiB and a name, with room.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    app: Arc<App>,
    watchers: Watchers,
}

/// Why a token gets no passport.
enum Refusal {
    /// It is not good, by its own text or by what we know.
    Bad { reason: &'static str, actor: Actor },
    /// It cannot be judged now.
    Late,
}

// === impl Service ===

impl Service {
    /// Answers for one gateway.
    pub fn new(app: Arc<App>) -> Self {
        Self { app, watchers: Watchers::default() }
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

    /// The text of a token that is not ours says nothing about anybody; one that is over was still somebody's.
    fn bad(&self, token: &str, reject: Reject) -> Refusal {
        let owner = if reject == Reject::Expired { self.app.tokens.owner_of_access(token).ok() } else { None };
        let reason = reason_of(reject);
        owner.map_or(Refusal::Bad { reason, actor: Actor::Anonymous }, |claims| Refusal::of(&claims, reason))
    }

    fn refuse(&self, refusal: Refusal, source: Source, started: Instant) -> Status {
        let (reason, actor) = match refusal {
            Refusal::Late => {
                metrics::attempt(Method::AccessToken, Outcome::Unavailable, started.elapsed());
                return Problem::unavailable("this token is newer than what is known here").into();
            }
            Refusal::Bad { reason, actor } => (reason, actor),
        };
        metrics::attempt(Method::AccessToken, Outcome::Refused, started.elapsed());
        tracing::debug!(reason, "token refused");
        self.app.denials.note(Denial {
            kind: audit::Kind::Authorize,
            outcome: audit::Outcome::Failure,
            actor,
            resource: None,
            reason: Some(reason),
            source,
        });
        Problem::new(Kind::Unauthenticated, "the token is not valid, or no longer").into()
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        let started = Instant::now();
        let headers = request.metadata().clone().into_headers();
        let source = Source::of(&headers, request.extensions());
        let AuthorizeRequest { token, audience } = request.into_inner();
        if !self.app.audiences.contains(&audience) {
            metrics::attempt(Method::AccessToken, Outcome::Invalid, started.elapsed());
            let detail = "no service of this name takes passports";
            return Err(Problem::new(Kind::InvalidArgument, detail).field("audience").into());
        }
        let (claims, user) = match self.judge(&token).await {
            Ok(judged) => judged,
            Err(refusal) => return Err(self.refuse(refusal, source, started)),
        };
        let now = self.app.unix_now();
        let issued = self.app.tokens.issue_passport(&claims, &user, &audience, now).map_err(Problem::internal)?;
        let Some((passport, expires_at)) = issued else {
            return Err(self.refuse(Refusal::of(&claims, reason_of(Reject::Expired)), source, started));
        };
        metrics::attempt(Method::AccessToken, Outcome::Ok, started.elapsed());
        Ok(Response::new(AuthorizeResponse {
            passport,
            passport_expires_at: Some(timestamp(expires_at)),
            token_expires_at: Some(timestamp(claims.exp)),
            subject: claims.sub,
            session_id: claims.sid,
            token_id: claims.jti,
            stale: !self.app.memory.is_fresh(),
        }))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let place = self.watchers.take()?;
        Ok(Response::new(Box::pin(watch(&self.app.memory, self.app.stop.clone(), place))))
    }

    async fn passport_keys(&self, _: Request<PassportKeysRequest>) -> Result<Response<PassportKeysResponse>, Status> {
        Ok(Response::new(PassportKeysResponse { jwks: self.app.tokens.passport_jwks().to_owned() }))
    }
}

fn timestamp(unix: authz::UnixTime) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix).unwrap_or(i64::MAX), nanos: 0 }
}

// === impl Refusal ===

impl Refusal {
    fn of(claims: &AccessTokenClaims, reason: &'static str) -> Self {
        let id = claims.sub.parse().ok();
        let actor = id.map_or(Actor::Anonymous, |id| Actor::User { id, session: claims.sid.parse().ok() });
        Self::Bad { reason, actor }
    }
}

impl From<Late> for Refusal {
    fn from(_: Late) -> Self {
        Self::Late
    }
}

fn reason_of(reject: Reject) -> &'static str {
    match reject {
        Reject::TooLong => "too_long",
        Reject::Malformed => "malformed",
        Reject::WrongAlgorithm => "wrong_algorithm",
        Reject::WrongType => "wrong_type",
        Reject::UnknownKey => "unknown_key",
        Reject::BadSignature => "bad_signature",
        Reject::WrongIssuer => "wrong_issuer",
        Reject::WrongAudience => "wrong_audience",
        Reject::Expired => "expired",
        Reject::NotYet => "not_yet",
        Reject::LifetimeTooLong => "lifetime_too_long",
    }
}
