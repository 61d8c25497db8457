//! What each principal and each tenant may take at a time: requests in a second, calls at once, bytes of bodies.
//!
//! A caller over its limits gets 429 and a time to wait; the calls of others are not touched. The bodies of all callers together have a bound
//! of their own, which is 503. The limits of a principal come from its roles, by configuration. Callers without a token are bounded by
//! their connections alone (`front/connection_limits.rs`), and what is behind their routes bounds sign-ins itself.

mod caller;
mod config;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use policy::Roles;
use problem::{Kind, Problem};

use self::caller::{Bodies, Caller};
use crate::metrics::{CallerLimit, CallerMetrics};

pub use config::{CallerLimits, CallersConfig};

/// A caller without calls is forgotten after this, when room is needed. A full burst has come back long before.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Who makes a request, as a gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The `sub` of its passports.
    pub subject: Arc<str>,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// Its roles now.
    pub roles: Roles,
}

/// Every caller that has calls under way, or had some lately.
pub struct Callers {
    config: CallersConfig,
    principals: Mutex<Remembered>,
    tenants: Mutex<Remembered>,
    bodies: Arc<Bodies>,
    metrics: Arc<CallerMetrics>,
}

type Remembered = HashMap<Arc<str>, Arc<Caller>>;

/// One call that was admitted. What it took is given back when it is dropped.
pub struct CallPermit {
    principal: Arc<Caller>,
    tenant: Arc<Caller>,
    bodies: Arc<Bodies>,
    body_bytes: u64,
    metrics: Arc<CallerMetrics>,
}

/// Why a call has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Which limit.
    pub limit: CallerLimit,
    /// When a call will be admitted again, as far as that is known.
    pub wait: Duration,
}

// === impl Principal ===

#[cfg(test)]
impl Principal {
    /// Of one tenant, without roles.
    pub(crate) fn named(subject: &str) -> Self {
        Self { subject: subject.into(), tenant: "t".into(), roles: Roles::default() }
    }
}

// === impl Callers ===

impl Callers {
    /// Nothing is under way.
    pub fn new(config: CallersConfig) -> Self {
        let metrics = Arc::new(CallerMetrics::register());
        let bodies = Arc::new(Bodies::new(config.body_bytes_max));
        Self { config, principals: Mutex::default(), tenants: Mutex::default(), bodies, metrics }
    }

    /// Admits a call whose head announces so many bytes of body.
    pub fn admit(&self, principal: &Principal, announced: u64) -> Result<CallPermit, OverLimit> {
        let Principal { subject, tenant, roles } = principal;
        let limits = self.config.of_roles(*roles);
        let principal = self.remember(&self.principals, subject, limits);
        let tenant = self.remember(&self.tenants, tenant, self.config.tenant);
        let over = |limit: CallerLimit, wait| {
            self.metrics.limited.increment(limit);
            if principal.is_news(Instant::now()) {
                let limit: &'static str = limit.into();
                tracing::info!(user = %subject, limit, "calls of a user are refused by a limit; said once a minute");
            }
            OverLimit { limit, wait }
        };
        principal.begin().map_err(|why| over(why.of_principal(), why.wait()))?;
        if let Err(why) = tenant.begin() {
            principal.end();
            return Err(over(why.of_tenant(), why.wait()));
        }
        let (bodies, metrics) = (Arc::clone(&self.bodies), Arc::clone(&self.metrics));
        let mut permit = CallPermit { principal: Arc::clone(&principal), tenant, bodies, body_bytes: 0, metrics };
        match permit.take(announced) {
            Ok(()) => Ok(permit),
            Err(limit) => Err(over(limit, Duration::from_secs(1))),
        }
    }

    /// The caller of this name. One whose limits are others than before begins anew.
    fn remember(&self, callers: &Mutex<Remembered>, name: &Arc<str>, limits: CallerLimits) -> Arc<Caller> {
        let now = Instant::now();
        let mut callers = callers.lock();
        if let Some(caller) = callers.get(name).filter(|caller| caller.has(limits)) {
            return Arc::clone(caller);
        }
        if callers.len() >= self.config.remembered_max {
            callers.retain(|_, caller| !caller.is_idle_since(now, FORGOTTEN_AFTER));
        }
        let caller = Arc::new(Caller::new(limits, now));
        callers.insert(Arc::clone(name), Arc::clone(&caller));
        caller
    }
}

// === impl CallPermit ===

impl CallPermit {
    /// So many bytes of the body have come. What its head announced counts already.
    pub fn count_body(&mut self, bytes: u64) -> Result<(), OverLimit> {
        self.take(bytes).map_err(|limit| {
            self.metrics.limited.increment(limit);
            OverLimit { limit, wait: Duration::from_secs(1) }
        })
    }

    fn take(&mut self, bytes: u64) -> Result<(), CallerLimit> {
        let more = bytes.saturating_sub(self.body_bytes);
        if more == 0 {
            return Ok(());
        }
        if !self.principal.take_bytes(self.body_bytes, more) {
            return Err(CallerLimit::PrincipalBytes);
        }
        if !self.tenant.take_bytes(self.body_bytes, more) {
            self.principal.give_bytes(more);
            return Err(CallerLimit::TenantBytes);
        }
        if !self.bodies.take(self.body_bytes, more) {
            self.principal.give_bytes(more);
            self.tenant.give_bytes(more);
            return Err(CallerLimit::AllBytes);
        }
        self.body_bytes = bytes;
        Ok(())
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        for caller in [&self.principal, &self.tenant] {
            caller.give_bytes(self.body_bytes);
            caller.end();
        }
        self.bodies.give(self.body_bytes);
    }
}

// === impl OverLimit ===

impl From<OverLimit> for Problem {
    fn from(over: OverLimit) -> Self {
        let detail = match over.limit {
            CallerLimit::PrincipalRate => "your requests come faster than your roles allow; send fewer",
            CallerLimit::PrincipalCalls => {
                "as many of your calls are under way as your roles allow; wait for one to end"
            }
            CallerLimit::PrincipalBytes => {
                "the bodies of your calls under way take as many bytes as your roles allow; wait for one to end"
            }
            CallerLimit::TenantRate => "the requests of your tenant come faster than it may make them; send fewer",
            CallerLimit::TenantCalls => {
                "as many calls of your tenant are under way as it may have; wait for one to end"
            }
            CallerLimit::TenantBytes => {
                "the bodies of your tenant's calls under way take as many bytes as they may; wait for one to end"
            }
            CallerLimit::AllBytes => "the bodies of all calls under way take as many bytes as they may; try again",
        };
        let kind = match over.limit {
            CallerLimit::AllBytes => Kind::Unavailable,
            _ => Kind::ResourceExhausted,
        };
        Self::new(kind, detail).retry_after(over.wait.max(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests;
