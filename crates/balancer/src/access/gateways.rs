//! The calls to the gateways: which is asked first, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{Extensions, HeaderMap, HeaderValue};
use identity::Identity;
use policy::Role;
use proto::auth::v1::{AuthorizeRequest, AuthorizeResponse, authorization_client::AuthorizationClient};
use tokio::time::{Instant as Deadline, timeout_at};
use tonic::{Code, Request, Status, metadata::MetadataMap};
use transport::Channel;

use super::{
    grant::{AccessError, Grant, GrantRequest, GrantResult},
    grant_cache::GrantCache,
    revocation_log::Verdict,
};
use crate::{
    callers::Principal,
    pool::{Pool, Replica},
    replica_state::ReplicaState,
};

/// A passport never holds longer, whatever a gateway's clock says.
const PASSPORT_LIFE_MAX: Duration = Duration::from_secs(60);
/// How long one gateway is waited for while there is another to ask, or a stale grant at hand.
const FIRST_ATTEMPT_MAX: Duration = Duration::from_millis(400);

pub(super) type Client = AuthorizationClient<Channel>;

/// A channel to each gateway, beside its health in the pool.
pub struct Gateways {
    gateways: Vec<(Arc<Replica>, Client)>,
    next_first: AtomicUsize,
}

/// One `Authorize` call: its message, with trace and client address.
pub(super) struct AuthorizeCall {
    request: AuthorizeRequest,
    metadata: MetadataMap,
}

// === impl AuthorizeCall ===

impl AuthorizeCall {
    pub(super) fn new(question: GrantRequest<'_>, headers: HeaderMap) -> Self {
        let GrantRequest { token, audience, request } = question;
        let (method, path) = request.map(|(method, path)| (method.to_string(), path.to_owned())).unwrap_or_default();
        let request = AuthorizeRequest { token: token.to_owned(), audience: audience.to_owned(), method, path };
        Self { request, metadata: MetadataMap::from_headers(headers) }
    }

    fn is_per_request(&self) -> bool {
        !self.request.method.is_empty()
    }

    fn request(&self) -> Request<AuthorizeRequest> {
        Request::from_parts(self.metadata.clone(), Extensions::new(), self.request.clone())
    }
}

// === impl Gateways ===

impl Gateways {
    /// Channels to every replica of the gateways' pool. They connect when they are used.
    pub fn new(pool: &Pool, identity: &Arc<Identity>) -> Arc<Self> {
        let client = |replica: &Arc<Replica>| {
            let address = std::slice::from_ref(&replica.address);
            (Arc::clone(replica), Client::new(transport::channel(identity, pool.name, address)))
        };
        Arc::new(Self { gateways: pool.replicas.iter().map(client).collect(), next_first: AtomicUsize::new(0) })
    }

    /// Every gateway by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Client)> {
        self.gateways.iter().map(|(replica, client)| (replica.name.as_str(), client.clone()))
    }

    /// Asks one gateway, and the next if it does not answer, until the deadline. The answer of a gateway that is cut off
    /// from its database counts only if no other gives a better one, and never if it lacks a change that is known here.
    pub(super) async fn authorize(&self, call: &AuthorizeCall, known: &GrantCache, deadline: Deadline) -> GrantResult {
        let epoch = known.epoch();
        let mut stale = None;
        let mut gateways = self.by_preference().peekable();
        while let Some((replica, mut client)) = gateways.next() {
            let until = match gateways.peek() {
                None if stale.is_none() => deadline,
                _ => deadline.min(Deadline::now() + FIRST_ATTEMPT_MAX),
            };
            let answered = timeout_at(until, client.authorize(call.request())).await;
            let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            match answered.map(|response| Grant::new(response.into_inner(), epoch)) {
                Ok(Some(mut grant)) => match known.judge(&grant, Instant::now()) {
                    Verdict::Good if !grant.is_stale => return Ok(Arc::new(grant)),
                    Verdict::Good | Verdict::Doubtful => {
                        grant.is_stale = true;
                        stale = stale.or(Some(grant));
                    }
                    Verdict::Outdated => log_failure(replica, "it lacks a change of the caller's rights"),
                    Verdict::Revoked => return Err(AccessError::Unauthenticated),
                },
                Err(status) if matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument) => {
                    return Err(AccessError::Unauthenticated);
                }
                // For a passport this says nothing of the token: the balancer itself is not on the gateway's peer list.
                Err(status) if status.code() == Code::PermissionDenied && call.is_per_request() => {
                    return Err(AccessError::PermissionDenied);
                }
                Err(status) => log_failure(replica, &crate::describe(&status)),
                Ok(None) => log_failure(replica, "the passport it granted is over, or no header"),
            }
            if Deadline::now() >= deadline {
                break;
            }
        }
        stale.map(Arc::new).ok_or(AccessError::Unavailable)
    }

    /// Those that may answer, the healthy first, each time beginning with another one. A gateway that is unhealthy
    /// is not asked: with all of them down the caller must not wait for it.
    fn by_preference(&self) -> impl Iterator<Item = (&Arc<Replica>, Client)> {
        let count = self.gateways.len().max(1);
        let first = self.next_first.fetch_add(1, Ordering::Relaxed) % count;
        let of_state = move |is_wanted: fn(ReplicaState) -> bool| {
            let gateways = self.gateways.iter().cycle().skip(first).take(self.gateways.len());
            gateways.filter(move |(replica, _)| is_wanted(replica.status().state))
        };
        let healthy = of_state(|state| state == ReplicaState::Healthy);
        let others = of_state(|state| matches!(state, ReplicaState::Starting | ReplicaState::Draining));
        healthy.chain(others).map(|(replica, client)| (replica, client.clone()))
    }
}

/// One gateway's failure is not the caller's as long as there is another; metrics count the callers'.
fn log_failure(replica: &Replica, why: &str) {
    tracing::debug!(gateway = %replica.name, why, "gateway did not authorize");
}

// === impl Grant ===

impl Grant {
    fn new(response: AuthorizeResponse, epoch: u64) -> Option<Self> {
        let now = (Instant::now(), SystemTime::now());
        let until = |timestamp: Option<prost_types::Timestamp>| {
            let time = SystemTime::try_from(timestamp?).ok()?;
            time.duration_since(now.1).ok()
        };
        let passport_life = until(response.passport_expires_at)?;
        let token_life = until(response.token_expires_at)?;
        let mut passport = HeaderValue::try_from(response.passport).ok()?;
        passport.set_sensitive(true);
        Some(Self {
            passport,
            expires: now.0 + passport_life.min(token_life).min(PASSPORT_LIFE_MAX),
            received: now.0,
            principal: Principal {
                subject: response.subject.into(),
                tenant: response.tenant.into(),
                roles: response.roles.iter().filter_map(|role| role.parse::<Role>().ok()).collect(),
            },
            session_id: response.session_id,
            token_id: response.token_id,
            authz_version: response.authz_version,
            feed_position: response.feed_position,
            epoch,
            is_stale: response.stale,
        })
    }
}
