//! The library that computes models, which only `rampart-serving` opens.

use std::{ffi::OsString, path::PathBuf};

use serde::Deserialize;

/// ONNX Runtime's shared library.
#[derive(clap::Args, Deserialize)]
pub(crate) struct Library {
    /// ONNX Runtime's shared library, which computes the golden example.
    #[arg(long = "onnxruntime", env = "RAMPART_ONNXRUNTIME")]
    library: PathBuf,
    /// Its SHA-256, in hex.
    #[arg(long = "onnxruntime-sha256", env = "RAMPART_ONNXRUNTIME_SHA256")]
    sha256: String,
}

// === impl Library ===

impl Library {
    /// As options of `rampart-serving`.
    pub(crate) fn options(&self) -> [OsString; 4] {
        let (library, sha256) = (self.library.clone().into(), (&self.sha256).into());
        ["--onnxruntime".into(), library, "--onnxruntime-sha256".into(), sha256]
    }
}
