//! The `[telemetry]` section.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// What a process logs and exports, and where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Which events are logged, in the syntax of `RUST_LOG`: `info,gateway=debug`.
    pub log_filter: String,
    /// `https://host:port` of an OTLP/gRPC collector; it speaks mTLS like every peer, under the service name `collector`.
    /// Without it nothing is exported and trace ids are passed on all the same.
    pub otlp_endpoint: Option<String>,
    /// Share of the traces that begin here and are exported, 0 to 1. Traces that begin elsewhere bring their answer along.
    pub trace_sample_ratio: f64,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    #[default]
    Json,
    /// Text, for people.
    Text,
}

// === impl TelemetryConfig ===

impl TelemetryConfig {
    /// What is wrong with the values: key inside the section, and why.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(error) = EnvFilter::builder().parse(&self.log_filter) {
            faults.push(("log_filter", format!("not a log filter: {error}")));
        }
        if !(0.0..=1.0).contains(&self.trace_sample_ratio) {
            faults.push(("trace_sample_ratio", "must be from 0 to 1".to_owned()));
        }
        if self.otlp_endpoint.is_some() && self.otlp_address().is_none() {
            faults.push(("otlp_endpoint", "must be https://host:port without a path".to_owned()));
        }
        faults
    }

    /// `host:port` of the collector, if one is configured and the address makes sense.
    pub fn otlp_address(&self) -> Option<String> {
        let uri: http::Uri = self.otlp_endpoint.as_deref()?.parse().ok()?;
        let is_bare = matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/"));
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16()?;
        (uri.scheme() == Some(&http::uri::Scheme::HTTPS) && is_bare).then(|| format!("{}:{port}", authority.host()))
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            trace_sample_ratio: 0.05,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_named() {
        let config = TelemetryConfig {
            log_filter: "info,=,".into(),
            trace_sample_ratio: 1.5,
            otlp_endpoint: Some("http://collector:4317".into()),
            ..TelemetryConfig::default()
        };
        let keys: Vec<_> = config.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["log_filter", "trace_sample_ratio", "otlp_endpoint"]);
        assert!(TelemetryConfig::default().faults().is_empty());
    }

    #[test]
    fn collector_is_https_with_host_and_port_and_nothing_else() {
        let address = |endpoint: &str| {
            TelemetryConfig { otlp_endpoint: Some(endpoint.into()), ..TelemetryConfig::default() }.otlp_address()
        };
        assert_eq!(address("https://collector:4317").as_deref(), Some("collector:4317"));
        assert_eq!(address("https://[::1]:4317/").as_deref(), Some("[::1]:4317"));
        for wrong in ["http://c:1", "https://c", "https://c:1/v1", "https://user@c:1", "c:1", ""] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}
