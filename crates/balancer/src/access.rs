//! From a bearer token to a passport: a gateway is asked once, and its answer cached under the token's hash.
//!
//! - For a third party, which cannot check passports, a gateway grants one request instead. That is cached under the
//!   token's hash, the method and the path: a grant for one path is found for no other.
//! - A cached passport is used without waiting and is renewed in the background at half its life, if it is used.
//! - However many requests bring a token at once, one call is made for it.
//! - A revocation removes grants at once, and is remembered for as long as tokens live: no gateway that has not heard of it can
//!   grant them again (`revocation_log`). A revocation stream that begins anew makes every grant stale, since something may
//!   have been missed: each is brought to a gateway again before it is used. Only while no gateway can be reached, stale
//!   ones serve until they expire. The policies of a gateway change only with its process, whose stream then begins anew:
//!   no grant outlives the rules that it was given by.
//! - Nothing is decided here about what a caller may do.

mod gateways;
mod grant;
mod grant_cache;
mod revocation_log;
mod revocations;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use telemetry::Trace;
use tokio::{
    sync::Semaphore,
    time::{Instant as Deadline, timeout},
};
use tokio_util::task::TaskTracker;

pub use gateways::Gateways;
pub use grant::{AccessError, Grant};
pub use revocations::watch;

use self::{
    gateways::AuthorizeCall,
    grant::{GrantKey, GrantRequest, GrantResult},
    grant_cache::{CallReceiver, GrantCache, Lookup},
    revocation_log::Revocation,
};
use crate::metrics::AccessMetrics;

/// No token that a gateway issues is longer.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Tells services where a request came from; the gateway writes it to its audit log.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("rampart-client-address");

/// How long a caller waits for a gateway while a stale grant is at hand: a gateway that has just started must not slow down
/// callers with a cached grant. The call goes on without them.
const STALE_WAIT_MAX: Duration = Duration::from_millis(200);

/// The `[access]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Grants and rejections that are cached.
    pub remembered_max: usize,
    /// Calls to gateways at once.
    pub calls_max: usize,
    /// How long a caller waits for a gateway, all attempts together.
    pub call_timeout_ms: u64,
}

/// Exchanges tokens for passports.
pub struct Access {
    cache: GrantCache,
    gateways: Arc<Gateways>,
    calls: Semaphore,
    call_timeout: Duration,
    tracker: TaskTracker,
    metrics: AccessMetrics,
}

/// The request for which a gateway is asked, as the gateway records it. Where several requests wait for one call, it is the
/// first one's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// The trace that the call belongs to.
    pub trace: Option<&'a Trace>,
    /// The address that the request came from.
    pub client: Option<IpAddr>,
}

// === impl Access ===

impl Access {
    /// An empty cache in front of these gateways. Calls outlive the requests that began them, hence the tracker.
    pub fn new(config: &AccessConfig, gateways: Arc<Gateways>, tracker: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            cache: GrantCache::new(config.remembered_max),
            gateways,
            calls: Semaphore::new(config.calls_max),
            call_timeout: Duration::from_millis(config.call_timeout_ms),
            tracker,
            metrics: AccessMetrics::register(),
        })
    }

    /// The passport for this token and audience.
    pub async fn passport(
        self: &Arc<Self>,
        token: &str,
        audience: &'static str,
        origin: Origin<'_>,
    ) -> Result<Arc<Grant>, AccessError> {
        self.grant(GrantRequest { token, audience, request: None }, origin).await
    }

    /// That the token's owner may make this request of a third party.
    pub async fn permission(
        self: &Arc<Self>,
        token: &str,
        audience: &'static str,
        method: &Method,
        path: &str,
        origin: Origin<'_>,
    ) -> Result<Arc<Grant>, AccessError> {
        if path.len() > policy::mlflow_routes::PATH_BYTES_MAX {
            return Err(AccessError::PermissionDenied);
        }
        self.grant(GrantRequest { token, audience, request: Some((method, path)) }, origin).await
    }

    async fn grant(self: &Arc<Self>, request: GrantRequest<'_>, origin: Origin<'_>) -> GrantResult {
        if request.token.is_empty() || request.token.len() > TOKEN_BYTES_MAX {
            return Err(AccessError::Unauthenticated);
        }
        let key = GrantKey::new(request);
        match self.cache.lookup(&key, Instant::now()) {
            Lookup::Fresh(grant) => Ok(grant),
            Lookup::RenewalDue(grant) => {
                self.call(&key, request, origin);
                Ok(grant)
            }
            Lookup::Rejected(error) => Err(error),
            Lookup::Stale => {
                let asked = timeout(STALE_WAIT_MAX, self.ask(&key, request, origin)).await;
                match asked.unwrap_or(Err(AccessError::Unavailable)) {
                    // Looked up again: a revocation may have removed it during the wait.
                    Err(AccessError::Unavailable) => {
                        self.cache.serve_stale(&key, Instant::now()).ok_or(AccessError::Unavailable)
                    }
                    answer => answer,
                }
            }
            Lookup::Missing => self.ask(&key, request, origin).await,
        }
    }

    async fn ask(self: &Arc<Self>, key: &GrantKey, request: GrantRequest<'_>, origin: Origin<'_>) -> GrantResult {
        let mut answer = self.call(key, request, origin);
        let answered = answer.wait_for(Option::is_some).await;
        // The sender is dropped unanswered only if the call was aborted, when the process ends.
        answered.ok().and_then(|answer| (*answer).clone()).unwrap_or(Err(AccessError::Unavailable))
    }

    /// Joins the call in flight for this key, or begins one.
    fn call(self: &Arc<Self>, key: &GrantKey, request: GrantRequest<'_>, origin: Origin<'_>) -> CallReceiver {
        let (receiver, sender) = self.cache.join_call(key);
        let Some(sender) = sender else { return receiver };
        let call = AuthorizeCall::new(request, origin.headers());
        let (access, key) = (Arc::clone(self), key.clone());
        self.tracker.spawn(async move {
            let deadline = Deadline::now() + access.call_timeout;
            let answer = loop {
                let answer = access.authorize(&call, deadline).await;
                // A revocation overtook the answer: ask again.
                if access.cache.finish_call(&key, &answer, Instant::now()) {
                    break answer;
                }
            };
            let _ = sender.send(Some(answer));
        });
        receiver
    }

    async fn authorize(&self, call: &AuthorizeCall, deadline: Deadline) -> GrantResult {
        let Ok(_permit) = self.calls.try_acquire() else {
            self.metrics.limited.increment(1);
            return Err(AccessError::Unavailable);
        };
        let answer = self.gateways.authorize(call, &self.cache, deadline).await;
        match &answer {
            Ok(_) => self.metrics.granted.increment(1),
            Err(AccessError::Unauthenticated) => self.metrics.unauthenticated.increment(1),
            Err(AccessError::PermissionDenied) => self.metrics.permission_denied.increment(1),
            Err(AccessError::Unavailable) => self.metrics.failed.increment(1),
        }
        answer
    }

    /// Removes what the revocation ends, and refuses it from now on.
    fn revoke(&self, revocation: &Revocation) {
        let count = self.cache.revoke(revocation, Instant::now());
        self.metrics.revoked.increment(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Revocations up to this place in the feed may have been missed: every grant must be asked for anew.
    fn make_all_stale(&self, feed_position: u64) {
        self.cache.make_all_stale(feed_position, Instant::now());
    }
}

// === impl Origin ===

impl Origin<'_> {
    /// The headers that carry it to a service.
    pub fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(trace) = self.trace {
            trace.inject(&mut headers);
        }
        let client = self.client.and_then(|client| HeaderValue::try_from(client.to_canonical().to_string()).ok());
        if let Some(client) = client {
            headers.insert(CLIENT_ADDRESS, client);
        }
        headers
    }
}
