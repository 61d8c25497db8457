//! The root CA and the short-lived certificates of every process.

use std::time::Duration;

use anyhow::Context as _;
use authority::{Authority, Leaf};
use identity::PeerName;
use time::OffsetDateTime;
use topology::PLATFORM;

use super::layout::Layout;

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
        let workloads = PLATFORM.workloads();
        for (workload, instance) in
            workloads.flat_map(|it| it.dev_instances.iter().map(move |instance| (it, *instance)))
        {
            let name = PeerName { service: workload.name.into(), instance: instance.into() };
            let lifetime = time::Duration::try_from(self.lifetime).context("certificate lifetime")?;
            let leaf = Leaf::new(name, now, lifetime).with_names(workload.dns_names);
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
