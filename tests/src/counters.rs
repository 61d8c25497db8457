//! What a service has counted, read from its admin port as an operator.

use anyhow::{Context as _, ensure};
use http::Method;
use identity::{Identity, IdentityConfig};
use rustls_pki_types::ServerName;

use crate::{
    platform::{Platform, service_of},
    request::{Protocol, Server, Template},
};

/// The counters of one instance at one moment.
pub struct Counters(String);

// === impl Counters ===

impl Counters {
    /// Asks an instance. The question itself is one call of `/metrics`.
    ///
    /// # Errors
    /// No answer, or none with metrics.
    pub async fn of(platform: &Platform, instance: &str) -> anyhow::Result<Self> {
        let directory = platform.state().identities.join("operator-1");
        let identity = Identity::load(&IdentityConfig { directory })?;
        let service = service_of(instance);
        let listeners = platform.state().listeners.get(instance).with_context(|| format!("no instance {instance}"))?;
        let server = Server {
            address: listeners.admin,
            name: ServerName::try_from(format!("{service}.rampart.internal"))?,
            tls: Some(identity.client_config(service)),
            protocol: Protocol::Http2,
        };
        let template = Template::json(Method::GET, "/metrics", None, "")?;
        let answer = server.connect().await?.call(&template).await?;
        let text = String::from_utf8(answer.body.to_vec()).context("metrics are text")?;
        ensure!(text.contains("ml_build_info"), "metrics of {instance}: {text}");
        Ok(Self(text))
    }

    /// The sum of the series of this metric that have all of these labels.
    ///
    /// # Errors
    /// There is no such series: a sum of none would prove nothing.
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> anyhow::Result<u64> {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let lines = self.0.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{')));
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label.as_str())));
        let values: Option<Vec<u64>> = lines.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        let values = values.with_context(|| format!("{metric} is no counter"))?;
        ensure!(!values.is_empty(), "there is no {metric} with {labels:?}");
        Ok(values.iter().sum())
    }
}
