//! The root CA and the short-lived certificates of every process.

use std::time::Duration;

use anyhow::Context as _;
use authority::{Authority, Leaf};
use identity::PeerName;
use time::OffsetDateTime;

use super::layout::Layout;

/// Every identity: service and instance. `postgres` is PostgreSQL's, `operator` is for people and scrapes.
pub(super) const IDENTITIES: [(&str, &str); 9] = [
    ("balancer", "balancer-1"),
    ("gateway", "gateway-1"),
    ("serving", "serving-1"),
    ("serving", "serving-2"),
    ("serving", "serving-3"),
    ("sla", "sla-1"),
    ("backup", "backup-1"),
    ("operator", "operator-1"),
    ("postgres", "postgres-1"),
];

/// Signs the certificates of all identities.
pub(super) struct Certificates {
    authority: Authority,
    lifetime: Duration,
}

// === impl Certificates ===

impl Certificates {
    /// Opens the CA and signs the first certificate of each.
    pub(super) fn open(layout: &Layout, lifetime: Duration) -> anyhow::Result<Self> {
        let ca = layout.root().join("ca");
        let authority = Authority::open_or_create(&ca, OffsetDateTime::now_utc()).context("cannot open the CA")?;
        let certificates = Self { authority, lifetime };
        certificates.issue_all(layout)?;
        Ok(certificates)
    }

    /// Signs a new certificate for each.
    pub(super) fn issue_all(&self, layout: &Layout) -> anyhow::Result<()> {
        let now = OffsetDateTime::now_utc();
        for (service, instance) in IDENTITIES {
            let name = PeerName { service: service.into(), instance: instance.into() };
            let lifetime = time::Duration::try_from(self.lifetime).context("certificate lifetime")?;
            let mut leaf = Leaf::new(name, now, lifetime);
            if matches!(service, "balancer" | "postgres") {
                leaf = leaf.with_names(&["localhost", "nebula", "127.0.0.1"]);
            }
            self.authority
                .issue(&leaf, &layout.identity(instance))
                .with_context(|| format!("cannot sign a certificate for {instance}"))?;
        }
        Ok(())
    }

    /// Half the life of a certificate: when the next one is due.
    pub(super) fn period(&self) -> Duration {
        self.lifetime / 2
    }
}
