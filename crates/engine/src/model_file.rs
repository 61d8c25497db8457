//! A model file, read once and judged before anything else sees it.

mod format;

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use sha256::Sha256Digest;

use crate::fault::{LoadFault, Reason};
use format::check_onnx;

/// Opens `model.onnx` of a version folder.
pub(crate) fn open(folder: &Path) -> Result<File, LoadFault> {
    File::open(folder.join("model.onnx")).map_err(unreadable)
}

/// Reads a model file from its start: not too large, ONNX by its bytes, and the file that was declared.
pub(crate) fn read(file: &File, declared: Sha256Digest, bytes_max: u64) -> Result<Vec<u8>, LoadFault> {
    let bytes = read_from_start(file, bytes_max).map_err(unreadable)?;
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

/// Reads a file from its start, wherever others are in it. One byte more than allowed, so that a file that is too long is noticed.
pub(crate) fn read_from_start(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(bytes_max).saturating_add(1);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn unreadable(error: io::Error) -> LoadFault {
    LoadFault::new(Reason::Artifact, format!("model.onnx: {error}"))
}
