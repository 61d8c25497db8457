//! A model file, read once and judged before anything else sees it.

mod format;

use sha256::Sha256Digest;
use std::{fs::File, io::Read, path::Path};

use crate::fault::{LoadFault, Reason};
use format::check_onnx;

/// Reads `model.onnx` of a version folder: not too large, ONNX by its bytes, and the file that was declared.
pub fn read(folder: &Path, declared: Sha256Digest, bytes_max: u64) -> Result<Vec<u8>, LoadFault> {
    let unreadable = |error: std::io::Error| LoadFault::new(Reason::Artifact, format!("model.onnx: {error}"));
    let file = File::open(folder.join("model.onnx")).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(bytes_max)).unwrap_or(0));
    // One more than allowed, so that a file which grew in between is noticed.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(LoadFault::new(
            Reason::Artifact,
            format!("model.onnx: more than the {bytes_max} bytes of models.file_bytes_max"),
        ));
    }
    // What kind of file it is says more than that its digest is wrong.
    check_onnx(&bytes).map_err(|detail| LoadFault::new(Reason::Format, format!("model.onnx: {detail}")))?;
    let found = Sha256Digest::of(&bytes);
    if found != declared {
        return Err(LoadFault::new(
            Reason::Digest,
            format!("model.onnx: its SHA-256 is {found}, but model.toml declares {declared}"),
        ));
    }
    Ok(bytes)
}
