//! Proves that the committed Rust is what `proto/` says today.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{fs, path::Path};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const INFERENCE: &str = "inference/grpc_service.proto";
const SOURCES: [&str; 4] =
    ["rampart/auth/v1/auth.proto", "rampart/models/v1/models.proto", "rampart/sla/v1/sla.proto", INFERENCE];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    generate(&root.join("../../proto"), fresh.path());

    let mut names: Vec<_> = fs::read_dir(fresh.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in &names {
        let new = fs::read(fresh.path().join(name)).unwrap();
        if std::env::var_os("RAMPART_UPDATE").is_some() {
            fs::write(committed.join(name), &new).unwrap();
        }
        let old = fs::read(committed.join(name)).unwrap_or_default();
        assert!(old == new, "{name:?} is not what proto/ says: run `RAMPART_UPDATE=1 cargo test -p proto` and commit");
    }
    assert_eq!(names.len(), fs::read_dir(&committed).unwrap().count(), "a stale file lies in src/generated");
}

fn generate(proto: &Path, out: &Path) {
    let mut set = protox::compile(SOURCES, [proto]).unwrap();
    let (inference, own): (Vec<_>, Vec<_>) = set.file.iter().cloned().partition(|file| file.name() == INFERENCE);
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(out)
        .compile_fds(FileDescriptorSet { file: own })
        .unwrap();
    tonic_prost_build::configure()
        .codec_path("crate::codec::BoundedCodec")
        .bytes(".inference.InferTensorContents.bytes_contents")
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .build_transport(false)
        .out_dir(out)
        .compile_fds(FileDescriptorSet { file: inference })
        .unwrap();
    // Comments stay in the generated Rust; the embedded descriptor is for enumeration only.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptor.bin"), set.encode_to_vec()).unwrap();
    let _ = fs::remove_file(out.join("google.protobuf.rs"));
}
