//! The configuration, one structure for each section of `config/default.toml`, where every key is explained.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{EngineConfig, MemoryBudget, WorkerLimits};
use model_repository::mlflow::RegistryConfig;
use serde::Deserialize;
use service::{Configuration, Fault};
use transport::{ListenConfig, UpstreamConfig};

use crate::{app::RequestLimits, byte_budget::ByteBudget};

/// The embedded defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

const WORKERS_MAX: usize = 256;
const QUEUE_MAX: usize = 65_536;
const BODY_BYTES_MAX: usize = 1 << 30;
const ANSWER_BYTES_MAX: u64 = 1 << 30;
const TIMEOUT_MS_MAX: u64 = 600_000;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub(crate) listen: ListenConfig,
    /// Where the keys of passports come from.
    pub(crate) gateway: UpstreamConfig,
    pub(crate) models: ModelsConfig,
    pub(crate) onnxruntime: EngineConfig,
    pub(crate) inference: InferenceConfig,
    pub(crate) probe: WorkerLimits,
}

/// Which models there are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelsConfig {
    pub(crate) directory: PathBuf,
    pub(crate) file_bytes_max: u64,
    #[serde(default)]
    desired_state_file: Option<PathBuf>,
    /// Whose mirror the folder is; without one the operator fills it.
    #[serde(default)]
    pub(crate) registry: Option<RegistryConfig>,
}

/// What a prediction may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InferenceConfig {
    workers: usize,
    memory_bytes_max: u64,
    memory_total_bytes_max: u64,
    pub(crate) queue_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
    pub(crate) answer_bytes_max: u64,
    bytes_under_way_max: u64,
    bytes_per_caller_max: u64,
    timeout_ms: u64,
}

// === impl Config ===

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Fault::under("gateway", self.gateway.faults());
        let mut demand = |holds, path: &str, message: &str| faults.extend(Fault::unless(holds, path, message));
        let (inference, probe) = (&self.inference, &self.probe);
        demand(
            self.onnxruntime.library.is_absolute(),
            "onnxruntime.library",
            "must be the absolute path of libonnxruntime.so",
        );
        demand(self.models.file_bytes_max > 0, "models.file_bytes_max", "must be at least 1");
        for (key, message) in self.models.registry.iter().flat_map(RegistryConfig::faults) {
            demand(false, &format!("models.registry.{key}"), &message);
        }
        demand(inference.workers <= WORKERS_MAX, "inference.workers", "must be at most 256");
        demand(inference.memory_bytes_max > 0, "inference.memory_bytes_max", "must be at least 1");
        demand((1..=QUEUE_MAX).contains(&inference.queue_max), "inference.queue_max", "must be from 1 to 65536");
        demand(inference.queue_bytes_max > 0, "inference.queue_bytes_max", "must be at least 1");
        demand(
            (1..=BODY_BYTES_MAX).contains(&inference.body_bytes_max),
            "inference.body_bytes_max",
            "must be from 1 to 1 GiB",
        );
        demand(
            (1..=ANSWER_BYTES_MAX).contains(&inference.answer_bytes_max),
            "inference.answer_bytes_max",
            "must be from 1 to 1 GiB",
        );
        demand(inference.bytes_under_way_max > 0, "inference.bytes_under_way_max", "must be at least 1");
        demand(
            (1..=inference.bytes_under_way_max).contains(&inference.bytes_per_caller_max),
            "inference.bytes_per_caller_max",
            "must be from 1 to inference.bytes_under_way_max",
        );
        demand(
            (1..=TIMEOUT_MS_MAX).contains(&inference.timeout_ms),
            "inference.timeout_ms",
            "must be from 1 to 600000",
        );
        demand(
            probe.memory_bytes_max >= 64 << 20,
            "probe.memory_bytes_max",
            "must be at least 64 MiB, or ONNX Runtime itself has no room",
        );
        demand(probe.cpu_s_max > 0, "probe.cpu_s_max", "must be at least 1");
        demand(probe.wall_s_max > 0, "probe.wall_s_max", "must be at least 1");
        faults
    }
}

// === impl ModelsConfig ===

impl ModelsConfig {
    /// Where this replica remembers which models should serve; `folder` has its models.
    pub(crate) fn desired_state_file(&self, folder: &Path) -> PathBuf {
        self.desired_state_file.clone().unwrap_or_else(|| folder.join(".desired-state.json"))
    }
}

// === impl InferenceConfig ===

impl InferenceConfig {
    /// Workers for each model version, if memory allows as many.
    pub(crate) fn workers_max(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            workers => workers,
        }
    }

    pub(crate) fn memory(&self) -> MemoryBudget {
        let total = match self.memory_total_bytes_max {
            0 => machine_bytes() / 4 * 3,
            bytes => bytes,
        };
        MemoryBudget::new(total, self.memory_bytes_max)
    }

    pub(crate) fn byte_budget(&self) -> ByteBudget {
        ByteBudget::new(self.bytes_under_way_max, self.bytes_per_caller_max, model_repository::call_bytes_gauge())
    }

    pub(crate) fn limits(&self) -> RequestLimits {
        RequestLimits {
            body_bytes_max: self.body_bytes_max,
            answer_bytes_max: usize::try_from(self.answer_bytes_max).unwrap_or(usize::MAX),
            timeout_max: Duration::from_millis(self.timeout_ms),
        }
    }
}

/// The memory of this machine.
fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_parse_and_say_what_is_missing() {
        let message = service::load::<Config>("serving", DEFAULTS, None).unwrap_err().to_string();
        let faults: Vec<&str> = message.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("gateway.addresses:") && faults[1].starts_with("onnxruntime.library:"));
    }

    /// The platform's own section is sound, and each fault names its key.
    #[test]
    fn the_registry_of_the_platform_is_sound() {
        let shipped: toml::Table = toml::from_str(include_str!("../../../docker/rampart/config/serving.toml")).unwrap();
        let shipped = shipped["models"]["registry"].clone();
        let with = |key: &str, value: toml::Value| -> Vec<&str> {
            let mut section = shipped.clone();
            section.as_table_mut().unwrap().insert(key.to_owned(), value);
            let config: RegistryConfig = section.try_into().unwrap();
            config.faults().into_iter().map(|(key, _)| key).collect()
        };
        assert!(with("versions_max", 4.into()).is_empty());
        for (key, value) in [
            ("address", "mlflow".into()),
            ("address", "https://mlflow:5000".into()),
            ("address", "user@mlflow:5000".into()),
            ("s3_endpoint", "http://minio:9000".into()),
            ("s3_endpoint", "https://minio:9000/path".into()),
            ("poll_interval_ms", 99.into()),
            ("versions_max", 0.into()),
            ("versions_max", 17.into()),
        ] {
            assert_eq!(with(key, value), [key]);
        }
        let mut misspelt = shipped.clone();
        misspelt.as_table_mut().unwrap().insert("adress".to_owned(), "x".into());
        assert!(misspelt.try_into::<RegistryConfig>().is_err());
    }
}
