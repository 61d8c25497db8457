//! The models that attackers call.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::{Value, json};
use sha256::Sha256Digest;

use self::onnx::{NodeSpec, ValueSpec, model};

#[expect(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "shared with the tests of serving, which use all of it"
)]
#[path = "../../../crates/serving/tests/serving/support/onnx.rs"]
mod onnx;

/// What is written, in the order of their names.
pub const NAMES: [&str; 3] = ["divide", "fill", "total"];

/// Writes folders of models: `divide`, which i64::MIN / -1 crashes; `total`, which takes as much memory as its caller says; `fill`, which
/// answers as much. `NAME/1/sample.json` is the golden example's input as a record.
///
/// # Errors
/// One cannot be written.
pub fn write(models: &Path) -> anyhow::Result<()> {
    let size = [("n", "INT64", &[1_i64][..])];
    let operands = [("a", "INT64", &[-1_i64][..]), ("b", "INT64", &[-1_i64][..])];
    let tensor = |name: &str, datatype: &str, data: &[i64]| json!({ "name": name, "datatype": datatype, "shape": [data.len()], "data": data });
    let sum: [NodeSpec<'_>; 2] = [("ConstantOfShape", &["n"], &["z"]), ("ReduceSum", &["z"], &["y"])];
    write_model(
        models,
        "divide",
        &[("Div", &["a", "b"], &["y"])],
        (&operands, &[("y", "INT64", &[-1])]),
        (&[tensor("a", "INT64", &[7]), tensor("b", "INT64", &[2])], tensor("y", "INT64", &[3])),
    )?;
    write_model(
        models,
        "total",
        &sum,
        (&size, &[("y", "FP32", &[1])]),
        (&[tensor("n", "INT64", &[2])], tensor("y", "FP32", &[0])),
    )?;
    write_model(
        models,
        "fill",
        &[("ConstantOfShape", &["n"], &["y"])],
        (&size, &[("y", "FP32", &[-1])]),
        (&[tensor("n", "INT64", &[2])], tensor("y", "FP32", &[0, 0])),
    )
}

fn write_model(
    models: &Path,
    name: &str,
    nodes: &[NodeSpec<'_>],
    (inputs, outputs): (&[ValueSpec<'_>], &[ValueSpec<'_>]),
    (given, output): (&[Value], Value),
) -> anyhow::Result<()> {
    let (folder, bytes) = (models.join(name), model(nodes, inputs, outputs));
    fs::create_dir_all(folder.join("1"))?;
    fs::write(folder.join("1/model.onnx"), &bytes)?;
    let value = |tensor: &Value| Some((tensor.get("name")?.as_str()?.to_owned(), tensor.pointer("/data/0")?.clone()));
    let record: serde_json::Map<String, Value> = given.iter().filter_map(value).collect();
    fs::write(folder.join("1/sample.json"), json!([record]).to_string())?;
    let golden = json!({ "inputs": given, "outputs": [output], "tolerance": 0 });
    fs::write(folder.join("1/golden.json"), golden.to_string())?;
    let mut toml = format!("name = {name:?}\n[versions.1]\nsha256 = \"{}\"\n", Sha256Digest::of(&bytes));
    for (section, specs) in [("inputs", inputs), ("outputs", outputs)] {
        for (name, datatype, shape) in specs {
            writeln!(toml, "[[{section}]]\nname = {name:?}\ndatatype = {datatype:?}\nshape = {shape:?}")?;
        }
    }
    fs::write(folder.join("model.toml"), toml)?;
    Ok(())
}
