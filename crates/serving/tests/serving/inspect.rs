//! `rampart-serving inspect` tells everything that is wrong with a bare model file, as far as one fault does not hide another.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    models::steps,
    onnx::{complex_with_external, with_versions},
    onnxruntime,
};

/// What it finds, in the order in which it says it; nothing of a file that can be served.
fn findings(model: &Path, options: &[&str]) -> Vec<String> {
    let (library, digest) = onnxruntime();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rampart-serving"));
    command.arg("inspect").arg(model).args(["--onnxruntime", &library, "--onnxruntime-sha256", &digest]).args(options);
    let output = command.output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {:?}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.success(), document.get("findings").is_none(), "{document}");
    let findings = document["findings"].as_array().into_iter().flatten();
    findings.map(|finding| finding.as_str().unwrap().to_owned()).collect()
}

/// Each finding begins with, or has, the words at its place, and there are no others.
fn assert_found(found: &[String], words: &[&str]) {
    assert_eq!(found.len(), words.len(), "{found:#?}");
    for (finding, words) in found.iter().zip(words) {
        assert!(finding.contains(words) && !finding.contains('\n'), "{words}: {finding}");
    }
}

#[test]
fn everything_that_is_wrong_with_a_file_is_found_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let write = |bytes: &[u8]| fs::write(&path, bytes).unwrap();
    let types = ["\"a\" has elements of type complex64", "\"b\" has elements", "\"c\" has elements"];
    let missing = ["\"../w.bin\", which cannot be a file beside it", "v.bin: No such file", "w.bin: No such file"];
    let newest = ["is of IR version 99", "is of opset 98"];

    let complex = complex_with_external(&["../w.bin", "v.bin", "w.bin"]);
    write(&with_versions(&complex, 99, 98));
    assert_found(&findings(&path, &[]), &[&missing[..], &newest, &types].concat());
    let sample = folder.path().join("rows.txt");
    let with_sample = findings(&path, &["--sample", sample.to_str().unwrap()]);
    assert_found(&with_sample, &[&missing[..], &["rows.txt"], &newest, &types].concat());

    // Of what is left when one fault is mended, all is found again.
    fs::write(folder.path().join("v.bin"), [0; 4]).unwrap();
    fs::write(folder.path().join("w.bin"), [0; 4]).unwrap();
    write(&with_versions(&complex_with_external(&["v.bin", "w.bin"]), 99, 98));
    assert_found(&findings(&path, &[]), &[&newest[..], &types].concat());
    write(&with_versions(&steps(2), 99, 98));
    assert_found(&findings(&path, &[]), &newest);
    write(&with_versions(&steps(2), 99, 17));
    assert_found(&findings(&path, &[]), &newest[..1]);
    write(&steps(2));
    assert_found(&findings(&path, &[]), &[]);
    write(b"\x80\x04\x95pickle");
    assert_found(&findings(&path, &["--sample", "/nonexistent.csv"]), &["a pickle", "/nonexistent.csv"]);
}

/// A sample that does not fit is told value by value.
#[test]
fn every_value_of_a_sample_that_does_not_fit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (path, sample) = (folder.path().join("model.onnx"), folder.path().join("rows.json"));
    fs::write(&path, steps(2)).unwrap();
    fs::write(&sample, r#"[{"x": "one"}, {"x": 2}, {"y": 3}]"#).unwrap();
    let found = findings(&path, &["--sample", sample.to_str().unwrap()]);
    assert_found(&found, &["\"x\", record 0", "\"y\", record 2"]);
}
