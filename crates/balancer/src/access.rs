//! From a bearer token to a passport: asked of a gateway once, remembered under the token's hash.
//!
//! - For a third party, which cannot check passports, it is a yes to one request instead, asked and remembered under the
//!   token's hash, the method and the path: what one path was allowed opens no other.
//! - A remembered passport answers without waiting and is renewed in the background at half its life, if it is used.
//! - However many requests bring a token at once, one call is made for it.
//! - A revocation throws passports away at once. A revocation stream that begins anew makes every passport stale, since
//!   something may have been missed: each is brought to a gateway again before it is used. Only while no gateway can be
//!   reached, stale ones serve until they expire. The policies of a gateway change only with its process, whose stream
//!   then begins anew: no answer outlives the rules that it was given by.
//! - Nothing is decided here about what a caller may do.

mod gateways;
mod grant_cache;
mod revocations;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use telemetry::Trace;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant as Deadline, timeout},
};
use tokio_util::task::TaskTracker;

pub use gateways::Gateways;
pub use revocations::watch;

use self::{
    gateways::AuthorizeCall,
    grant_cache::{GrantCache, Lookup},
};
use crate::metrics::AccessMetrics;

/// A longer token is not one of ours.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// By this name services, the gateway's audit log among them, learn where a request came from.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("rampart-client-address");

/// How long a caller waits for a gateway while a stale passport is at hand: a gateway that has just started must not slow
/// down those who are known. The call goes on without them.
const STALE_WAIT_MAX: Duration = Duration::from_millis(200);

/// The `[access]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Passports and refusals that are remembered.
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

/// The request for which a gateway is asked: what the gateway needs for its own records. Where several requests wait for
/// one call, it is the first one's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// The trace that the call belongs to.
    pub trace: Option<&'a Trace>,
    /// Who sent the request.
    pub client: Option<IpAddr>,
}

/// What a gateway granted.
#[derive(Debug)]
pub struct Grant {
    /// Empty when the answer was a yes to one request.
    passport: HeaderValue,
    expires: Instant,
    received: Instant,
    subject: String,
    session_id: String,
    token_id: String,
    /// The age of the cache when the call began; a grant of an older age is stale.
    epoch: u64,
    /// The gateway is cut off from its database, and may have missed a revocation.
    is_stale: bool,
}

/// Why there is no passport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The token is not, or no longer, good.
    #[error("the bearer token is not valid, or no longer")]
    Unauthenticated,
    /// The token is good, and the request is not for who has it.
    #[error("this may not be done with this token")]
    PermissionDenied,
    /// No gateway could be asked.
    #[error("authentication is not available at the moment")]
    Unavailable,
}

/// One call's result, as all who wait for it get it.
type GrantResult = Result<Arc<Grant>, AccessError>;

/// A token for an audience, and the request if one was asked about. The token itself is kept nowhere, and paths only as a
/// hash, for they are as long as clients like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GrantKey {
    token: [u8; 32],
    audience: &'static str,
    request: Option<[u8; 32]>,
}

/// What is asked: a passport to an audience, or a yes to one request there.
#[derive(Clone, Copy, Debug)]
struct GrantRequest<'a> {
    token: &'a str,
    audience: &'static str,
    request: Option<(&'a Method, &'a str)>,
}

// === impl Access ===

impl Access {
    /// An empty cache before these gateways. The tracker gets the calls, which outlive the requests that began them.
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
    ) -> Result<HeaderValue, AccessError> {
        let grant = self.grant(GrantRequest { token, audience, request: None }, origin).await?;
        Ok(grant.passport.clone())
    }

    /// Whether whoever has the token may make this request of a third party.
    pub async fn permission(
        self: &Arc<Self>,
        token: &str,
        audience: &'static str,
        method: &Method,
        path: &str,
        origin: Origin<'_>,
    ) -> Result<(), AccessError> {
        if path.len() > policy::mlflow_routes::PATH_BYTES_MAX {
            return Err(AccessError::PermissionDenied);
        }
        self.grant(GrantRequest { token, audience, request: Some((method, path)) }, origin).await?;
        Ok(())
    }

    async fn grant(self: &Arc<Self>, question: GrantRequest<'_>, origin: Origin<'_>) -> GrantResult {
        if question.token.is_empty() || question.token.len() > TOKEN_BYTES_MAX {
            return Err(AccessError::Unauthenticated);
        }
        let key = GrantKey::new(question);
        match self.cache.lookup(&key, Instant::now()) {
            Lookup::Fresh(grant) => Ok(grant),
            Lookup::RenewalDue(grant) => {
                self.call(&key, question, origin);
                Ok(grant)
            }
            Lookup::Rejected(error) => Err(error),
            Lookup::Stale => {
                let asked = timeout(STALE_WAIT_MAX, self.ask(&key, question, origin)).await;
                match asked.unwrap_or(Err(AccessError::Unavailable)) {
                    // Looked for again: a revocation may have taken it away while we waited.
                    Err(AccessError::Unavailable) => {
                        self.cache.serve_stale(&key, Instant::now()).ok_or(AccessError::Unavailable)
                    }
                    answer => answer,
                }
            }
            Lookup::Missing => self.ask(&key, question, origin).await,
        }
    }

    async fn ask(self: &Arc<Self>, key: &GrantKey, question: GrantRequest<'_>, origin: Origin<'_>) -> GrantResult {
        let mut answer = self.call(key, question, origin);
        let answered = answer.wait_for(Option::is_some).await;
        // The sender is dropped unanswered only if the call was aborted, when the process ends.
        answered.ok().and_then(|answer| (*answer).clone()).unwrap_or(Err(AccessError::Unavailable))
    }

    /// Joins the call that is on its way for this key, or begins one.
    fn call(
        self: &Arc<Self>,
        key: &GrantKey,
        question: GrantRequest<'_>,
        origin: Origin<'_>,
    ) -> watch::Receiver<Option<GrantResult>> {
        let (sender, receiver) = match self.cache.join_call(key) {
            Ok(receiver) => return receiver,
            Err(begun) => begun,
        };
        let ask = AuthorizeCall::new(question, origin.headers());
        let (access, key) = (Arc::clone(self), key.clone());
        self.tracker.spawn(async move {
            let deadline = Deadline::now() + access.call_timeout;
            let answer = loop {
                let began = access.cache.mark();
                let answer = access.exchange(&ask, began.epoch(), deadline).await;
                // A revocation that came while the call was under way may be newer than its answer: ask again.
                if access.cache.finish_call(&key, &answer, &began, Instant::now()) {
                    break answer;
                }
            };
            let _ = sender.send(Some(answer));
        });
        receiver
    }

    async fn exchange(&self, ask: &AuthorizeCall, epoch: u64, deadline: Deadline) -> GrantResult {
        let Ok(_permit) = self.calls.try_acquire() else {
            self.metrics.limited.increment(1);
            return Err(AccessError::Unavailable);
        };
        let answer = self.gateways.authorize(ask, epoch, deadline).await;
        match &answer {
            Ok(_) => self.metrics.granted.increment(1),
            Err(AccessError::Unauthenticated) => self.metrics.unauthenticated.increment(1),
            Err(AccessError::PermissionDenied) => self.metrics.permission_denied.increment(1),
            Err(AccessError::Unavailable) => self.metrics.failed.increment(1),
        }
        answer
    }

    /// Throws away what the revocation names.
    fn revoke(&self, revoked: grant_cache::Revoked) {
        let count = self.cache.revoke(revoked);
        self.metrics.revoked.increment(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Something may have been missed: everything must be asked anew.
    fn expire_all(&self) {
        self.cache.begin_epoch();
    }
}

// === impl Origin ===

impl Origin<'_> {
    /// The headers that say it to a service.
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

// === impl GrantKey ===

impl GrantKey {
    fn new(question: GrantRequest<'_>) -> Self {
        let GrantRequest { token, audience, request } = question;
        // No method has a blank in it, so no other method and path make the same text.
        let request = request.map(|(method, path)| sha256(&format!("{method} {path}")));
        Self { token: sha256(token), audience, request }
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

// === impl Grant ===

impl Grant {
    /// Renewed from here on, if it is used.
    fn half_life(&self) -> Instant {
        self.received + self.expires.saturating_duration_since(self.received) / 2
    }
}
