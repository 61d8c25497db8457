//! The `[callers]` section.

use std::collections::BTreeMap;

use policy::{Role, Roles};
use serde::Deserialize;
use service::Fault;

/// What callers may take at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallersConfig {
    /// Principals, and tenants, that are remembered while they have no calls.
    pub remembered_max: usize,
    /// Bodies of all calls under way, in bytes.
    pub body_bytes_max: u64,
    /// A principal none of whose roles is named.
    pub default: CallerLimits,
    /// By role. Of several roles that are named the larger number counts, one limit at a time.
    #[serde(default)]
    pub roles: BTreeMap<String, CallerLimits>,
    /// All principals of one tenant together.
    pub tenant: CallerLimits,
}

/// What one caller may take at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerLimits {
    /// Requests, on average.
    pub requests_per_s: u32,
    /// Requests at once after a pause.
    pub requests_burst: u32,
    /// Calls under way.
    pub calls_max: u32,
    /// Bodies of calls under way, in bytes. One alone may be as long as its route allows.
    pub body_bytes_max: u64,
}

// === impl CallersConfig ===

impl CallersConfig {
    /// What a principal with these roles may take.
    pub(super) fn of_roles(&self, roles: Roles) -> CallerLimits {
        let named = roles.iter().filter_map(|role| self.roles.get(role.as_str()).copied());
        named.reduce(CallerLimits::max).unwrap_or(self.default)
    }

    /// What is wrong with it.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (path, number) in [("remembered_max", self.remembered_max as u64), ("body_bytes_max", self.body_bytes_max)]
        {
            if number == 0 {
                faults.push(Fault::new(format!("callers.{path}"), "must be more than 0"));
            }
        }
        for (role, limits) in &self.roles {
            if let Err(unknown) = role.parse::<Role>() {
                faults.push(Fault::new(format!("callers.roles.{role}"), unknown.to_string()));
            }
            faults.extend(limits.faults(&format!("roles.{role}")));
        }
        faults.extend(self.default.faults("default"));
        faults.extend(self.tenant.faults("tenant"));
        faults
    }
}

// === impl CallerLimits ===

impl CallerLimits {
    fn max(self, other: Self) -> Self {
        Self {
            requests_per_s: self.requests_per_s.max(other.requests_per_s),
            requests_burst: self.requests_burst.max(other.requests_burst),
            calls_max: self.calls_max.max(other.calls_max),
            body_bytes_max: self.body_bytes_max.max(other.body_bytes_max),
        }
    }

    fn faults(&self, of: &str) -> Vec<Fault> {
        let numbers = [
            ("requests_per_s", u64::from(self.requests_per_s)),
            ("requests_burst", u64::from(self.requests_burst)),
            ("calls_max", u64::from(self.calls_max)),
            ("body_bytes_max", self.body_bytes_max),
        ];
        let zero = numbers.into_iter().filter(|(_, number)| *number == 0);
        zero.map(|(name, _)| Fault::new(format!("callers.{of}.{name}"), "must be more than 0")).collect()
    }
}
