//! Models as exporters write them, with golden examples that ONNX Runtime computed in Python: each serves, or is refused with what to do.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    models::{copy_exported, tensor, write_steps},
};

/// Those that serve: scikit-learn with columns of two kinds, ZipMap and text; LightGBM of onnxmltools; no batch dimension; FP16; an
/// input and an output without rank; nested golden data; weights in a file beside the model.
const SERVING: [&str; 9] = [
    "external-data",
    "golden-nested",
    "half",
    "iris-lightgbm",
    "iris-rf-zipmap",
    "no-batch",
    "rankless2",
    "text-tfidf",
    "titanic",
];

fn exported_golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name).join("1/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

async fn metadata(client: &Client, model: &str) -> Value {
    client.get(&format!("/v2/models/{model}")).await.json()
}

/// Rewrites the declaration of a model.
fn redeclare(models: &Path, name: &str, change: impl FnOnce(String) -> String) {
    let file = models.join(name).join("model.toml");
    fs::write(&file, change(fs::read_to_string(&file).unwrap())).unwrap();
}

/// Why a model is not served.
async fn reason(client: &Client, model: &str) -> String {
    let index = client.post("/v2/repository/index", "").await.json();
    let row = index.as_array().unwrap().iter().find(|row| row["name"] == model).unwrap().clone();
    assert_eq!(row["state"], "UNAVAILABLE", "{row}");
    row["reason"].as_str().unwrap().to_owned()
}

fn flat(data: &Value, into: &mut Vec<Value>) {
    match data {
        Value::Array(list) => list.iter().for_each(|item| flat(item, into)),
        item => into.push(item.clone()),
    }
}

fn assert_near(got: &Value, wanted: &Value, model: &str) {
    let (mut all_got, mut all_wanted) = (Vec::new(), Vec::new());
    flat(got, &mut all_got);
    flat(wanted, &mut all_wanted);
    assert_eq!(all_got.len(), all_wanted.len(), "{model}");
    for (got, wanted) in all_got.iter().zip(&all_wanted) {
        let (got, wanted) = (got.as_f64().unwrap(), wanted.as_f64().unwrap());
        assert!((got - wanted).abs() <= 1e-4, "{model}: {got} is not {wanted}");
    }
}

/// The golden examples were compared when the models were loaded; here a client sends their inputs. FP16 has no JSON form in the
/// protocol.
#[tokio::test]
async fn models_as_exporters_write_them_serve() {
    let serving = Serving::start(|models| SERVING.iter().for_each(|name| copy_exported(models, name))).await;
    let client = serving.client("balancer").await;
    for model in SERVING {
        let ready = client.get(&format!("/v2/models/{model}/ready")).await;
        assert_eq!(ready.status, 200, "{model}: {:?}", client.post("/v2/repository/index", "").await.body);
        let golden = exported_golden(model);
        if golden["inputs"][0]["datatype"] == "FP16" {
            continue;
        }
        let answer = client.infer(model, &json!({ "inputs": golden["inputs"] })).await;
        assert_eq!(answer.status, 200, "{model}: {:?}", answer.body);
        for wanted in golden["outputs"].as_array().unwrap() {
            let outputs = answer.json()["outputs"].clone();
            let got =
                outputs.as_array().unwrap().iter().find(|output| output["name"] == wanted["name"]).unwrap().clone();
            assert_eq!((&got["shape"], &got["datatype"]), (&wanted["shape"], &wanted["datatype"]), "{model}");
            assert_near(&got["data"], &wanted["data"], model);
        }
    }
}

/// onnxmltools declares LightGBM's label as `[1]`; it is as long as the batch, also when the only golden example has one row.
#[tokio::test]
async fn an_output_declared_with_one_row_has_the_rows_of_the_batch() {
    let serving = Serving::start(|models| {
        copy_exported(models, "iris-lightgbm");
        let row = |name: &str, datatype: &str, shape: &[i64], data: Value| tensor(name, datatype, shape, data);
        let golden = json!({
            "inputs": [row("input", "FP32", &[1, 4], json!([5.1, 3.5, 1.4, 0.2]))],
            "outputs": [
                row("label", "INT64", &[1], json!([0])),
                row("probabilities", "FP32", &[1, 3], json!([0.945_610_17, 0.027_131_084, 0.027_258_68])),
            ],
            "tolerance": 1e-4,
        });
        fs::write(models.join("iris-lightgbm/1/golden.json"), golden.to_string()).unwrap();
    })
    .await;
    let client = serving.client("balancer").await;
    assert_eq!(metadata(&client, "iris-lightgbm").await["outputs"][0]["shape"], json!([-1]));
    for rows in [1, 4, 100] {
        let data: Vec<f64> = [5.1, 3.5, 1.4, 0.2].into_iter().cycle().take(4 * rows).collect();
        let rows = i64::try_from(rows).unwrap();
        let body = json!({ "inputs": [tensor("input", "FP32", &[rows, 4], json!(data))] });
        let answer = client.infer("iris-lightgbm", &body).await;
        assert_eq!(answer.json()["outputs"][0]["shape"], json!([rows]), "{:?}", answer.body);
    }
    // What is loaded stays so: a load of the same files changes nothing.
    assert_eq!(client.post("/v2/repository/models/iris-lightgbm/load", "").await.status, 200);
}

/// The maps of a ZipMap are served as the matrix that it was made of, and the metadata name the classes.
#[tokio::test]
async fn a_zipmap_is_served_as_probabilities_with_the_names_of_classes() {
    let serving = Serving::start(|models| copy_exported(models, "iris-rf-zipmap")).await;
    let outputs = metadata(&serving.client("balancer").await, "iris-rf-zipmap").await["outputs"].clone();
    assert_eq!((&outputs[0]["name"], &outputs[0]["shape"]), (&json!("label"), &json!([-1])));
    assert_eq!((&outputs[1]["name"], &outputs[1]["shape"]), (&json!("probabilities"), &json!([-1, 3])));
    assert_eq!(outputs[1]["columns"], json!(["0", "1", "2"]));
}

/// Each is refused with what to do about it, and the others serve.
#[tokio::test]
async fn what_is_not_served_says_what_to_do() {
    let serving = Serving::start_unready(|models| {
        write_steps(models, 1);
        for name in ["external-data", "iris-rf-zipmap", "golden-nested", "no-batch", "onnx-default"] {
            copy_exported(models, name);
        }
        redeclare(models, "external-data", |toml| {
            toml.lines().filter(|line| !line.starts_with("data =")).collect::<Vec<_>>().join("\n")
        });
        // As who leaves out what ZipMap gives declares it.
        redeclare(models, "iris-rf-zipmap", |toml| toml.split("[[outputs]]\nname = \"prob").next().unwrap().to_owned());
        redeclare(models, "golden-nested", |toml| toml.replacen("\"FP32\"", "\"float32\"", 1));
        let (from, to) = (models.join("no-batch/1/model.onnx"), models.join("no-batch/1/elsewhere.onnx"));
        fs::rename(&from, &to).unwrap();
        std::os::unix::fs::symlink(&to, &from).unwrap();
        fs::create_dir(models.join("Ünlesbar")).unwrap();
        fs::copy(models.join("steps/model.toml"), models.join("Ünlesbar/model.toml")).unwrap();
    })
    .await
    .ready()
    .await;
    let client = serving.client("balancer").await;
    for (model, words) in [
        ("external-data", "\"ext.onnx.data\", which model.toml does not declare: put that file beside model.onnx"),
        ("iris-rf-zipmap", "does not declare the output \"probabilities\" FP32 [-1,3]"),
        ("golden-nested", "\"float32\" is not a datatype; write FP32"),
        ("onnx-default", "of IR version 14, and this engine reads up to 13: export it for an older opset"),
        ("no-batch", "model.onnx: is a symbolic link; put the file or folder itself there"),
    ] {
        let reason = reason(&client, model).await;
        assert!(reason.contains(words), "{model}: {reason}");
    }
    let index = client.post("/v2/repository/index", "").await.json();
    let row = index.as_array().unwrap().iter().find(|row| row["name"] == "Ünlesbar").cloned().unwrap_or_default();
    assert!(row["reason"].as_str().unwrap_or_default().contains("cannot be the name of a model"), "{index}");
    assert_eq!(client.get("/v2/models/steps/ready").await.status, 200);
}
