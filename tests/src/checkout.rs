//! The checkout and its build: the root, the binaries, ONNX Runtime's library.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The root of the checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A binary of the workspace, beside the running test.
///
/// # Errors
/// It was not built: `cargo build --workspace` comes first.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directories = own.ancestors().skip(1).take(2);
    let found = directories.map(|directory| directory.join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not built: run cargo build --workspace first"))
}

/// ONNX Runtime's library and digest, as `scripts/lib` unpacked it.
///
/// # Errors
/// The environment does not name them.
pub fn onnxruntime() -> anyhow::Result<(PathBuf, String)> {
    let library =
        std::env::var("RAMPART_ONNXRUNTIME").context("RAMPART_ONNXRUNTIME is not set: run by scripts/test")?;
    let digest = std::env::var("RAMPART_ONNXRUNTIME_SHA256").context("RAMPART_ONNXRUNTIME_SHA256 is not set")?;
    Ok((library.into(), digest))
}
