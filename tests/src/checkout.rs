//! Where the project's own files are.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
