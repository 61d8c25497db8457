//! ONNX Runtime: the one native library of the service.
//!
//! The library is a file named in the configuration with its SHA-256. It is hashed through the same open file that the
//! dynamic linker is then given, so what was checked is what is loaded. ONNX Runtime allows one environment for each
//! process; [`Engine::open`] therefore remembers the first library and refuses another.
//!
//! Only this module and its children know `ort`; the rest of the service sees [`Tensor`](crate::tensor::Tensor)s.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{environment::Environment, logging::LogLevel};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha256::{Measured, Measuring, Sha256Digest};

use crate::onnxruntime_telemetry::{self, DISABLE_VARIABLE};

/// Where ONNX Runtime is, and what it must be.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// The shared library, e.g. `libonnxruntime.so.1.31.1` out of the official Python wheel.
    pub library: PathBuf,
    /// SHA-256 of that file, in hex.
    #[serde(deserialize_with = "sha256::any_case")]
    pub sha256: Sha256Digest,
}

/// The loaded library.
#[derive(Clone, Debug)]
pub struct Engine {
    environment: Environment,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read.
    #[error("onnxruntime.library {}: cannot be read", path.display())]
    Unreadable {
        /// As configured.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file is not the one that was pinned.
    #[error("onnxruntime.library {}: its SHA-256 is {found}, but onnxruntime.sha256 demands {pinned}", path.display())]
    Digest {
        /// As configured.
        path: PathBuf,
        /// Of the file.
        found: Sha256Digest,
        /// As configured.
        pinned: Sha256Digest,
    },
    /// The dynamic linker or the version check refused it.
    #[error("onnxruntime.library {}: {reason}", path.display())]
    Load {
        /// As configured.
        path: PathBuf,
        /// The error of the loader.
        reason: String,
    },
    /// This process runs on another library already.
    #[error("onnxruntime.library {}: this process has loaded another ONNX Runtime already", path.display())]
    Other {
        /// As configured.
        path: PathBuf,
    },
    /// The library would report to its maker.
    #[error("{}={} must be in the environment before ONNX Runtime is loaded", DISABLE_VARIABLE.0, DISABLE_VARIABLE.1)]
    Telemetry,
    /// ONNX Runtime itself failed.
    #[error("onnx runtime: {0}")]
    Runtime(String),
}

/// The library of this process, once opened: a dynamic library is global to its process.
static OPENED: Mutex<Option<(Sha256Digest, Engine)>> = Mutex::new(None);

// === impl Engine ===

impl Engine {
    /// Checks and loads the library; a second call with the same digest returns the same engine.
    pub fn open(config: &EngineConfig) -> Result<Self, EngineError> {
        let mut opened = OPENED.lock();
        if let Some((digest, engine)) = opened.as_ref() {
            return if *digest == config.sha256 {
                Ok(engine.clone())
            } else {
                Err(EngineError::Other { path: config.library.clone() })
            };
        }
        if !onnxruntime_telemetry::is_disabled() {
            return Err(EngineError::Telemetry);
        }
        let file = check(config)?;
        let engine = Self { environment: load(&config.library, &file)? };
        *opened = Some((config.sha256, engine.clone()));
        Ok(engine)
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

fn check(config: &EngineConfig) -> Result<File, EngineError> {
    let unreadable = |source| EngineError::Unreadable { path: config.library.clone(), source };
    let mut library = Measuring::new(File::open(&config.library).map_err(unreadable)?);
    io::copy(&mut library, &mut io::sink()).map_err(unreadable)?;
    let (Measured { sha256: found, .. }, file) = library.finish();
    if found != config.sha256 {
        return Err(EngineError::Digest { path: config.library.clone(), found, pinned: config.sha256 });
    }
    Ok(file)
}

fn load(path: &Path, checked: &File) -> Result<Environment, EngineError> {
    use std::os::fd::AsRawFd;

    // The path may be exchanged after the check, the open file cannot.
    let same_file = format!("/proc/self/fd/{}", checked.as_raw_fd());
    let builder = ort::init_from(same_file)
        .map_err(|error| EngineError::Load { path: path.to_owned(), reason: error.to_string() })?;
    let environment = builder
        .with_name("rampart")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _category, _id, _location, message| log(level, message)))
        .build()
        .map_err(|error| EngineError::Runtime(error.to_string()))?;
    environment.set_log_level(LogLevel::Error);
    Ok(environment)
}

/// ONNX Runtime logs what it also returns as an error, so only a fatal message is an ERROR.
fn log(level: LogLevel, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(
            error = message,
            "ONNX Runtime reported a fatal error; restart this replica if it stops answering"
        ),
        _ => tracing::debug!(error = message, "ONNX Runtime reported an error"),
    }
}
