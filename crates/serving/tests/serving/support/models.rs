//! Model folders for tests.

use std::{fmt::Write, fs, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::onnx::{NodeSpec, SHARED, ValueSpec, lookup, model, repeated};

/// A folder to be, with one or more versions of one signature.
pub(crate) struct ModelFolder<'a> {
    pub(crate) name: &'a str,
    pub(crate) inputs: &'a [ValueSpec<'a>],
    pub(crate) outputs: &'a [ValueSpec<'a>],
    pub(crate) champion: &'a str,
}

impl ModelFolder<'_> {
    /// Writes `model.toml` and, for each version, its bytes and golden example.
    pub(crate) fn write(&self, models: &Path, versions: &[(&str, &[u8], Value)]) {
        let folder = models.join(self.name);
        let mut toml = format!("name = {:?}\n[aliases]\nchampion = {:?}\n", self.name, self.champion);
        for (version, bytes, golden) in versions {
            let version_folder = folder.join(version);
            fs::create_dir_all(&version_folder).unwrap();
            fs::write(version_folder.join("model.onnx"), bytes).unwrap();
            fs::write(version_folder.join("golden.json"), golden.to_string()).unwrap();
            writeln!(toml, "[versions.{version}]\nsha256 = \"{}\"", sha256(bytes)).unwrap();
        }
        for (section, specs) in [("inputs", self.inputs), ("outputs", self.outputs)] {
            for (name, datatype, shape) in specs {
                writeln!(toml, "[[{section}]]\nname = {name:?}\ndatatype = {datatype:?}\nshape = {shape:?}").unwrap();
            }
        }
        fs::write(folder.join("model.toml"), toml).unwrap();
    }
}

/// Declares where a model computes, whatever its `model.toml` says of it.
pub(crate) fn isolate(models: &Path, name: &str, isolation: &str) {
    let file = models.join(name).join("model.toml");
    let toml = fs::read_to_string(&file).unwrap();
    let rest: Vec<&str> = toml.lines().filter(|line| !line.starts_with("isolation")).collect();
    fs::write(&file, format!("isolation = {isolation:?}\n{}\n", rest.join("\n"))).unwrap();
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A tensor object.
pub(crate) fn tensor(name: &str, datatype: &str, shape: &[i64], data: Value) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": data })
}

/// A golden example that must be met exactly.
pub(crate) fn golden(inputs: &[Value], outputs: &[Value]) -> Value {
    json!({ "inputs": inputs, "outputs": outputs, "tolerance": 0 })
}

/// `identity-<datatype>`: what goes in comes out.
pub(crate) fn write_identity(models: &Path, datatype: &str) {
    let name = format!("identity-{}", datatype.to_lowercase());
    let (inputs, outputs) = ([("x", datatype, &[-1_i64][..])], [("y", datatype, &[-1_i64][..])]);
    let bytes = model(&[("Identity", &["x"], &["y"])], &inputs, &outputs);
    let one = match datatype {
        "BOOL" => json!([true]),
        "BYTES" => json!(["one"]),
        _ => json!([1]),
    };
    let golden = golden(&[tensor("x", datatype, &[1], one.clone())], &[tensor("y", datatype, &[1], one)]);
    ModelFolder { name: &name, inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// `steps`: version n answers n times the input, so that an answer tells which version gave it.
pub(crate) fn write_steps(models: &Path, versions: u32) {
    let (inputs, outputs) = ([("x", "FP32", &[-1_i64][..])], [("y", "FP32", &[-1_i64][..])]);
    let built: Vec<(String, Vec<u8>, Value)> =
        (1..=versions).map(|n| (n.to_string(), steps(n), steps_golden(n))).collect();
    let versions: Vec<(&str, &[u8], Value)> =
        built.iter().map(|(n, bytes, golden)| (&**n, &**bytes, golden.clone())).collect();
    let champion = versions.last().unwrap().0;
    ModelFolder { name: "steps", inputs: &inputs, outputs: &outputs, champion }.write(models, &versions);
}

/// The same with the one version n, as 1, under another name.
pub(crate) fn write_steps_as(models: &Path, name: &str, n: u32) {
    let (inputs, outputs) = ([("x", "FP32", &[-1_i64][..])], [("y", "FP32", &[-1_i64][..])]);
    ModelFolder { name, inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &steps(n), steps_golden(n))]);
}

/// The model that answers n times its input.
pub(crate) fn steps(n: u32) -> Vec<u8> {
    let sums: Vec<[String; 3]> = (1..n)
        .map(|i| [if i == 1 { "x".to_owned() } else { format!("s{i}") }, "x".to_owned(), format!("s{}", i + 1)])
        .collect();
    let last = if n == 1 { "x".to_owned() } else { format!("s{n}") };
    let mut nodes: Vec<(&str, Vec<&str>, Vec<&str>)> =
        sums.iter().map(|[a, b, c]| ("Add", vec![&**a, &**b], vec![&**c])).collect();
    nodes.push(("Identity", vec![&last], vec!["y"]));
    let nodes: Vec<NodeSpec<'_>> =
        nodes.iter().map(|(operator, inputs, outputs)| (*operator, &**inputs, &**outputs)).collect();
    model(&nodes, &[("x", "FP32", &[-1])], &[("y", "FP32", &[-1])])
}

pub(crate) fn steps_golden(n: u32) -> Value {
    golden(&[tensor("x", "FP32", &[2], json!([1, 2]))], &[tensor("y", "FP32", &[2], json!([n, 2 * n]))])
}

/// `square`: a product of two matrices of ones whose size the caller chooses; the sum of all its elements comes back.
/// Sizes beyond a thousand take a fair part of a second.
pub(crate) fn write_square(models: &Path) {
    let (inputs, outputs) = ([("size", "INT64", &[2_i64][..])], [("sum", "FP32", &[1_i64, 1][..])]);
    let nodes: [NodeSpec<'_>; 4] = [
        ("ConstantOfShape", &["size"], &["zeros"]),
        ("Cos", &["zeros"], &["ones"]),
        ("MatMul", &["ones", "ones"], &["product"]),
        ("ReduceSum", &["product"], &["sum"]),
    ];
    let bytes = model(&nodes, &inputs, &outputs);
    let golden = golden(&[tensor("size", "INT64", &[2], json!([2, 2]))], &[tensor("sum", "FP32", &[1, 1], json!([8]))]);
    ModelFolder { name: "square", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// `chain`: product after product of square matrices of zeros, whose size the caller chooses; their sum, 0, comes back.
/// A run can be stopped between two products. At size 500 all of them take a good part of a second; at the size of its
/// golden example the load does.
pub(crate) fn write_chain(models: &Path, golden_size: u32) {
    write_chain_of(models, 64, golden_size);
}

/// The same with so many products.
pub(crate) fn write_chain_of(models: &Path, products: usize, golden_size: u32) {
    let (inputs, outputs) = ([("size", "INT64", &[2_i64][..])], [("sum", "FP32", &[1_i64, 1][..])]);
    let names: Vec<String> = (0..=products).map(|index| format!("p{index}")).collect();
    let mut nodes: Vec<(&str, Vec<&str>, Vec<&str>)> = vec![("ConstantOfShape", vec!["size"], vec!["p0"])];
    nodes.extend(names.windows(2).map(|pair| ("MatMul", vec![&*pair[0], "p0"], vec![&*pair[1]])));
    nodes.push(("ReduceSum", vec![&names[products]], vec!["sum"]));
    let nodes: Vec<NodeSpec<'_>> =
        nodes.iter().map(|(operator, inputs, outputs)| (*operator, &**inputs, &**outputs)).collect();
    let bytes = model(&nodes, &inputs, &outputs);
    let size = tensor("size", "INT64", &[2], json!([golden_size, golden_size]));
    let golden = golden(&[size], &[tensor("sum", "FP32", &[1, 1], json!([0]))]);
    ModelFolder { name: "chain", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// `lookup`: one of so many zeros, which the process that computes it holds.
pub(crate) fn write_lookup(models: &Path, zeros: usize) {
    let (inputs, outputs) = ([("i", "INT64", &[-1_i64][..])], [("y", "FP32", &[-1_i64][..])]);
    let golden = golden(&[tensor("i", "INT64", &[1], json!([7]))], &[tensor("y", "FP32", &[1], json!([0]))]);
    ModelFolder { name: "lookup", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &lookup(zeros), golden)]);
}

/// A model that doubles zero so many times for its golden example.
pub(crate) fn write_repeated(models: &Path, name: &str, times: i64) {
    let inputs = [("n", "INT64", &[1_i64][..]), ("x", "FP32", &[-1_i64][..])];
    let outputs = [("y", "FP32", &[-1_i64][..])];
    let golden = golden(
        &[tensor("n", "INT64", &[1], json!([times])), tensor("x", "FP32", &[1], json!([0]))],
        &[tensor("y", "FP32", &[1], json!([0]))],
    );
    ModelFolder { name, inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &repeated(), golden)]);
}

/// `root`: square roots, which are NaN for negative numbers.
pub(crate) fn write_root(models: &Path) {
    let (inputs, outputs) = ([("x", "FP32", &[-1_i64][..])], [("y", "FP32", &[-1_i64][..])]);
    let bytes = model(&[("Sqrt", &["x"], &["y"])], &inputs, &outputs);
    let golden = golden(&[tensor("x", "FP32", &[1], json!([4]))], &[tensor("y", "FP32", &[1], json!([2]))]);
    ModelFolder { name: "root", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// `sum`: two inputs that must have the same length, which no shape says.
pub(crate) fn write_sum(models: &Path) {
    let inputs = [("a", "FP32", &[-1_i64][..]), ("b", "FP32", &[-1_i64][..])];
    let outputs = [("sum", "FP32", &[-1_i64][..])];
    let in_file = [("a", "FP32", &[SHARED][..]), ("b", "FP32", &[SHARED][..])];
    let bytes = model(&[("Add", &["a", "b"], &["sum"])], &in_file, &outputs);
    let golden = golden(
        &[tensor("a", "FP32", &[1], json!([1])), tensor("b", "FP32", &[1], json!([2]))],
        &[tensor("sum", "FP32", &[1], json!([3]))],
    );
    ModelFolder { name: "sum", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// One of the models of `examples/`, as it is there.
pub(crate) fn copy_example(models: &Path, name: &str) {
    copy_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/models").join(name), models);
}

/// A model as an exporter wrote it, out of `tests/data/models`.
pub(crate) fn copy_exported(models: &Path, name: &str) {
    copy_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name), models);
}

fn copy_model(from: &Path, models: &Path) {
    let to = models.join(from.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            copy_model(&path, &to);
        } else {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// The golden example of an example's version: inputs and the outputs that must come.
pub(crate) fn example_golden(name: &str, version: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/models")
        .join(name)
        .join(version)
        .join("golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// `divide`: whole numbers. `i64::MIN / -1` is a crash of the processor in ONNX Runtime.
pub(crate) fn write_divide(models: &Path) {
    let (inputs, outputs) =
        ([("a", "INT64", &[-1_i64][..]), ("b", "INT64", &[-1_i64][..])], [("y", "INT64", &[-1_i64][..])]);
    let bytes = model(&[("Div", &["a", "b"], &["y"])], &inputs, &outputs);
    let golden = golden(
        &[tensor("a", "INT64", &[1], json!([7])), tensor("b", "INT64", &[1], json!([2]))],
        &[tensor("y", "INT64", &[1], json!([3]))],
    );
    ModelFolder { name: "divide", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// The body of a division.
pub(crate) fn division(a: i64, b: i64) -> Value {
    json!({ "inputs": [tensor("a", "INT64", &[1], json!([a])), tensor("b", "INT64", &[1], json!([b]))] })
}

/// `fill`: as many zeros as the caller says.
pub(crate) fn write_fill(models: &Path) {
    let (inputs, outputs) = ([("n", "INT64", &[1_i64][..])], [("y", "FP32", &[-1_i64][..])]);
    let bytes = model(&[("ConstantOfShape", &["n"], &["y"])], &inputs, &outputs);
    let golden = golden(&[tensor("n", "INT64", &[1], json!([2]))], &[tensor("y", "FP32", &[2], json!([0, 0]))]);
    ModelFolder { name: "fill", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// `total`: the sum of as many zeros as the caller says; little goes in and comes out, and much is between.
pub(crate) fn write_total(models: &Path) {
    let (inputs, outputs) = ([("n", "INT64", &[1_i64][..])], [("y", "FP32", &[1_i64][..])]);
    let bytes = model(&[("ConstantOfShape", &["n"], &["z"]), ("ReduceSum", &["z"], &["y"])], &inputs, &outputs);
    let golden = golden(&[tensor("n", "INT64", &[1], json!([2]))], &[tensor("y", "FP32", &[1], json!([0]))]);
    ModelFolder { name: "total", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden)]);
}

/// The body of a call with one number.
pub(crate) fn count(n: i64) -> Value {
    json!({ "inputs": [tensor("n", "INT64", &[1], json!([n]))] })
}
