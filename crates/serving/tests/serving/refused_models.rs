//! What must not serve does not, whatever is wrong with it; what served before goes on, and the index says why.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    models::{ModelFolder, copy_exported, golden, sha256, steps, steps_golden, tensor, write_steps, write_sum},
    onnx::{model, plus_external, plus_one},
};

const INPUTS: [(&str, &str, &[i64]); 1] = [("x", "FP32", &[-1])];
const OUTPUTS: [(&str, &str, &[i64]); 1] = [("y", "FP32", &[-1])];

async fn replica() -> (Serving, Client) {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// Offers a second version and makes it the champion; returns what `load` says.
async fn offer(serving: &Serving, client: &Client, bytes: &[u8], golden: Value) -> (u16, String) {
    let folder = ModelFolder { name: "steps", inputs: &INPUTS, outputs: &OUTPUTS, champion: "2" };
    folder.write(&serving.models, &[("1", &steps(1), steps_golden(1)), ("2", bytes, golden)]);
    load(client).await
}

async fn load(client: &Client) -> (u16, String) {
    let answer = client.post("/v2/repository/models/steps/load", "").await;
    (answer.status, if answer.status == 200 { String::new() } else { answer.error() })
}

async fn index_row(client: &Client, version: &str) -> Value {
    let index = client.post("/v2/repository/index", "").await.json();
    index.as_array().unwrap().iter().find(|row| row["version"] == version).cloned().unwrap_or_default()
}

/// Version 1 still answers, by number and as the default.
async fn assert_version_1_serves(client: &Client) {
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] });
    for path in
        ["/v2/models/steps/infer", "/v2/models/steps/versions/champion/infer", "/v2/models/steps/versions/1/infer"]
    {
        let answer = client.post_json(path, &body).await;
        assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([3.0])), "{path}");
        assert_eq!(answer.json()["model_version"], "1");
    }
}

/// Truncated, pickle, wrong signature, wrong answers, nonsense: each is refused with a
/// reason, and the champion stays where it was.
#[tokio::test]
async fn bad_files_leave_the_old_version_serving() {
    let (serving, client) = replica().await;
    let good = steps(2);
    let two_inputs = model(&[("Add", &["x", "z"], &["y"])], &[("x", "FP32", &[-1]), ("z", "FP32", &[-1])], &OUTPUTS);
    let doubles = model(&[("Add", &["x", "x"], &["y"])], &[("x", "FP64", &[-1])], &[("y", "FP64", &[-1])]);
    let unknown = model(&[("NoSuchOperator", &["x"], &["y"])], &INPUTS, &OUTPUTS);
    let cases: [(&str, &[u8], Value, &str); 9] = [
        ("truncated", &good[..good.len() - 3], steps_golden(2), "cut off"),
        ("pickle", b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix", steps_golden(2), "pickle"),
        ("zip", b"PK\x03\x04\x14\0\0\0\x08\0", steps_golden(2), "zip archive"),
        ("empty", b"", steps_golden(2), "empty"),
        ("nonsense", &[0x08; 100], steps_golden(2), "not an ONNX model"),
        ("two inputs", &two_inputs, steps_golden(2), "does not declare the input"),
        ("doubles", &doubles, steps_golden(2), "FP64"),
        ("operator", &unknown, steps_golden(2), "NoSuchOperator"),
        ("wrong answers", &good, steps_golden(3), "golden output \"y\""),
    ];
    for (what, bytes, golden, words) in cases {
        let (status, error) = offer(&serving, &client, bytes, golden).await;
        assert_eq!(status, 409, "{what}: {error}");
        assert!(error.starts_with("not loaded, what served before serves on: steps"), "{what}: {error}");
        assert!(error.contains(words), "{what}: {error}");
        let row = index_row(&client, "2").await;
        assert_eq!(row["state"], "UNAVAILABLE", "{what}");
        assert!(error.contains(row["reason"].as_str().unwrap()), "{what}: {row} {error}");
        assert_version_1_serves(&client).await;
        let called = client.get("/v2/models/steps/versions/2/ready").await;
        assert_eq!(called.status, 409, "{what}");
        assert!(called.error().contains("was refused: "), "a caller is told why: {}", called.error());
    }
    assert_eq!(offer(&serving, &client, &good, steps_golden(2)).await, (200, String::new()));
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] });
    assert_eq!(client.infer("steps", &body).await.json()["outputs"][0]["data"], json!([6.0]));
    assert!(serving.metrics().await.contains("ml_model_load_failures_total{model=\"steps\",reason=\"golden\"} 1"));
}

/// What has no digest is no part of a model: a constant in another file is refused although the file is there and right, wherever the model
/// says that it is, and the same constant in the model is taken.
#[tokio::test]
async fn undeclared_external_data_is_refused() {
    let (serving, client) = replica().await;
    let golden = || golden(&[tensor("x", "FP32", &[2], json!([1, 2]))], &[tensor("y", "FP32", &[2], json!([2, 3]))]);
    let folder = serving.models.join("steps/2");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("weights.bin"), 1.0_f32.to_le_bytes()).unwrap();
    let inside = folder.join("weights.bin");
    for location in ["weights.bin", "../2/weights.bin", inside.to_str().unwrap()] {
        let (status, error) = offer(&serving, &client, &plus_external(location), golden()).await;
        assert_eq!(status, 409, "{location}: {error}");
        assert!(error.contains("which model.toml does not declare"), "{location}: {error}");
        assert_version_1_serves(&client).await;
    }
    assert_eq!(offer(&serving, &client, &plus_one(), golden()).await, (200, String::new()));
}

/// With its digest such a file is part of the model, and with another digest it is not.
#[tokio::test]
async fn external_data_is_what_was_declared() {
    let serving = Serving::start(|models| copy_exported(models, "external-data")).await;
    let client = serving.client("balancer").await;
    let file = serving.models.join("external-data/1/ext.onnx.data");
    let mut weights = fs::read(&file).unwrap();
    weights[100] ^= 1;
    fs::write(&file, weights).unwrap();
    let answer = client.post("/v2/repository/models/external-data/load", "").await;
    assert_eq!(answer.status, 409, "{:?}", answer.body);
    assert!(answer.error().contains("ext.onnx.data: its SHA-256 is"), "{}", answer.error());
    assert_eq!(client.get("/v2/models/external-data/ready").await.status, 200, "what was loaded serves on");
}

/// Fifty files, each damaged and then declared with its own digest: refused, or harmless by its golden example; the
/// version before serves on all the time, out of the same process.
#[tokio::test]
async fn mutated_models_are_refused_or_right() {
    let (mut serving, client) = replica().await;
    let folder = ModelFolder { name: "steps", inputs: &INPUTS, outputs: &OUTPUTS, champion: "1" };
    let golden_call = json!({ "inputs": [tensor("x", "FP32", &[2], json!([1, 2]))] });
    let (sound, mut chance, mut refused) = (steps(3), SeededRandom(5), 0);
    for round in 0..50 {
        let mutant = chance.mutate(&sound);
        folder.write(&serving.models, &[("1", &steps(1), steps_golden(1)), ("2", &mutant, steps_golden(3))]);
        let (status, error) = load(&client).await;
        if status == 200 {
            let answer = client.post_json("/v2/models/steps/versions/2/infer", &golden_call).await;
            assert_eq!(answer.json()["outputs"][0]["data"], json!([3.0, 6.0]), "{round}: {mutant:?}");
        } else {
            assert!(status == 409 && error.contains("steps version 2: "), "{round}: {status} {error} {mutant:?}");
            refused += 1;
        }
        assert_version_1_serves(&client).await;
    }
    assert!((25..50).contains(&refused), "{refused} of 50 were refused, so they prove little");
    assert!(serving.child.try_wait().unwrap().is_none(), "the process lives");
}

/// The same damages on every run.
struct SeededRandom(u64);

impl SeededRandom {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// One to three bytes changed, removed, doubled or cut off.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut mutant = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(mutant.len());
            match self.below(8) {
                0 => drop(mutant.remove(at)),
                1 => mutant.insert(at, mutant[at]),
                2 => mutant.truncate(at.max(1)),
                _ => mutant[at] ^= 1 << self.below(8),
            }
        }
        mutant
    }
}

/// The file of a version that serves is changed in place: the digest is noticed at the next load, the version serves on.
#[tokio::test]
async fn a_file_that_changed_is_noticed_and_not_taken() {
    let (serving, client) = replica().await;
    let file = serving.models.join("steps/1/model.onnx");
    let mut mutated = steps(1);
    *mutated.last_mut().unwrap() ^= 1;
    for other in [mutated, steps(2)] {
        fs::write(&file, &other).unwrap();
        let (status, error) = load(&client).await;
        assert_eq!(status, 409);
        assert!(error.contains("SHA-256") && error.contains(&sha256(&other)), "{error}");
    }
    let row = index_row(&client, "1").await;
    assert_eq!(row["state"], "UNAVAILABLE");
    assert!(row["reason"].as_str().unwrap().starts_with("an earlier load serves on: "), "{row}");
    assert_version_1_serves(&client).await;
    fs::write(&file, steps(1)).unwrap();
    assert_eq!(load(&client).await.0, 200);
    assert_eq!(index_row(&client, "1").await["state"], "READY");
}

/// A broken, missing or foreign `model.toml`, and a version without golden examples.
#[tokio::test]
async fn bad_declarations_leave_the_old_version_serving() {
    let (serving, client) = replica().await;
    let toml = serving.models.join("steps/model.toml");
    let sound = fs::read_to_string(&toml).unwrap();
    for (text, words) in [
        ("name = ".to_owned(), "model.toml"),
        (sound.replace("name = \"steps\"", "name = \"other\""), "not the name of its folder"),
        (sound.replace("champion = \"1\"", "champion = \"9\""), "aliases.champion"),
        (sound.replace("[-1]", "[-5]"), "shape"),
        (format!("colour = \"red\"\n{sound}"), "colour"),
    ] {
        fs::write(&toml, text).unwrap();
        let (status, error) = load(&client).await;
        assert!(status == 409 && error.contains(words), "{words}: {status} {error}");
        assert_eq!(index_row(&client, "1").await["state"], "UNAVAILABLE");
        assert_version_1_serves(&client).await;
    }
    fs::write(&toml, sound).unwrap();
    assert_eq!(offer(&serving, &client, &steps(2), steps_golden(2)).await.0, 200);
    fs::remove_file(serving.models.join("steps/2/golden.json")).unwrap();
    assert_eq!(load(&client).await.0, 200, "a version that serves is proved by its digest");
}

/// A model that asks for more memory than there is dies in the child and nowhere else; so does one without golden.json.
#[tokio::test]
async fn hostile_models_die_in_the_child() {
    let (serving, client) = replica().await;
    let inputs = [("x", "INT64", &[2_i64][..])];
    let outputs = [("y", "FP32", &[-1_i64, -1][..])];
    let bomb = model(&[("ConstantOfShape", &["x"], &["y"])], &inputs, &outputs);
    let huge =
        golden(&[tensor("x", "INT64", &[2], json!([200_000, 200_000]))], &[tensor("y", "FP32", &[1, 1], json!([0]))]);
    ModelFolder { name: "bomb", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(&serving.models, &[("1", &bomb, huge)]);
    let answer = client.post("/v2/repository/models/bomb/load", "").await;
    assert_eq!(answer.status, 409, "{:?}", answer.body);
    write_without_golden(&serving.models);
    let answer = client.post("/v2/repository/models/plain/load", "").await;
    assert!(answer.status == 409 && answer.error().contains("golden.json: is missing"), "{:?}", answer.body);
    assert!(answer.error().starts_with("not loaded: plain version 1"), "nothing served before: {}", answer.error());
    assert_version_1_serves(&client).await;
    fs::create_dir(serving.models.join("empty")).unwrap();
    let answer = client.post("/v2/repository/models/empty/load", "").await;
    assert!(answer.status == 409 && answer.error().contains("model.toml"), "{:?}", answer.body);
    // What never served takes nothing out of service, not even for the balancer; the operator reads a remark.
    for name in ["bomb", "plain", "empty"] {
        assert_eq!(client.get("/v2/health/ready").await.status, 200);
        assert!(serving.admin("/ready").await.json()["remarks"]["models"].is_string());
        assert_eq!(client.post(&format!("/v2/repository/models/{name}/unload"), "").await.status, 200);
    }
    assert_eq!(serving.admin("/ready").await.json()["remarks"], json!({}));
}

/// One broken folder among others at the start keeps nothing out of service.
#[tokio::test]
async fn a_start_with_one_broken_model_is_ready() {
    let serving = Serving::start(|models| {
        write_steps(models, 1);
        write_without_golden(models);
        fs::create_dir(models.join("broken")).unwrap();
        fs::write(models.join("broken/model.toml"), "name = ").unwrap();
    })
    .await;
    assert_version_1_serves(&serving.client("balancer").await).await;
    assert!(serving.admin("/ready").await.json()["remarks"]["models"].is_string());
}

/// A start at which nothing serves waits for a load that does; from then on the replica stays ready.
#[tokio::test]
async fn a_start_with_nothing_but_broken_models_is_not_ready() {
    let serving = Serving::start_unready(write_without_golden).await;
    let client = serving.client("balancer").await;
    testkit::poll_until("the folder was read", Duration::from_secs(60), async || {
        client.get("/v2/models/unknown").await.status == 404
    })
    .await;
    assert_eq!(client.get("/v2/health/ready").await.status, 503);
    write_steps(&serving.models, 1);
    assert_eq!(load(&client).await.0, 200);
    assert_eq!(client.get("/v2/health/ready").await.status, 200);
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    assert_eq!(client.get("/v2/health/ready").await.status, 200);
}

/// A champion that failed at the start is missed, not replaced by a version that was not promoted.
#[tokio::test]
async fn a_champion_that_does_not_serve_is_unavailable() {
    let serving = Serving::start(|models| {
        write_sum(models);
        write_steps(models, 2);
        fs::write(models.join("steps/2/model.onnx"), steps(3)).unwrap();
    })
    .await;
    let client = serving.client("balancer").await;
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] });
    for path in ["/v2/models/steps/infer", "/v2/models/steps/versions/champion/infer"] {
        let answer = client.post_json(path, &body).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.error().contains("version 2 of the model \"steps\""), "{path}: {}", answer.error());
    }
    assert_eq!(client.get("/v2/models/steps/ready").await.status, 503);
    // A number promises nothing, so its caller is at fault, and not the service.
    let answer = client.post_json("/v2/models/steps/versions/2/infer", &body).await;
    assert_eq!(answer.status, 409);
    assert!(answer.error().contains("version 2 of the model \"steps\" was refused"), "{}", answer.error());
    assert_eq!(client.post_json("/v2/models/steps/versions/1/infer", &body).await.status, 200);
    assert_eq!(client.get("/v2/models/steps/versions/unknown/ready").await.status, 404);
    fs::write(serving.models.join("steps/2/model.onnx"), steps(2)).unwrap();
    assert_eq!(load(&client).await, (200, String::new()));
    assert_eq!(client.infer("steps", &body).await.json()["model_version"], "2");
}

/// A version that takes more memory than it may is refused; one that could not have every worker has those that fit.
#[tokio::test]
async fn workers_have_a_bound_together() {
    let config = "[inference]\nworkers = 4\nmemory_bytes_max = 134217728\n";
    let serving = Serving::start_with(config, |models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    let inputs = [("x", "INT64", &[2_i64][..])];
    let outputs = [("y", "FP32", &[1_i64, 1][..])];
    let fill = model(&[("ConstantOfShape", &["x"], &["z"]), ("ReduceSum", &["z"], &["y"])], &inputs, &outputs);
    let mut all_workers = 4;
    // 144 MB, 36 MB and next to nothing, and what a process takes.
    for (size, status, workers) in [(6000, 409, 0), (3000, 200, 2), (10, 200, 4)] {
        let name = format!("fill-{size}");
        let size = tensor("x", "INT64", &[2], json!([size, size]));
        let golden = golden(&[size], &[tensor("y", "FP32", &[1, 1], json!([0]))]);
        let folder = ModelFolder { name: &name, inputs: &inputs, outputs: &outputs, champion: "1" };
        folder.write(&serving.models, &[("1", &fill, golden)]);
        let answer = client.post(&format!("/v2/repository/models/{name}/load"), "").await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
        assert!(status == 200 || answer.error().contains("inference.memory_bytes_max"), "{}", answer.error());
        assert_version_1_serves(&client).await;
        all_workers += workers;
        serving.until_workers(all_workers).await;
    }
    assert!(serving.metrics().await.contains("ml_model_load_failures_total{model=\"fill-6000\",reason=\"limits\"} 1"));
}

fn write_without_golden(models: &Path) {
    ModelFolder { name: "plain", inputs: &INPUTS, outputs: &OUTPUTS, champion: "1" }
        .write(models, &[("1", &steps(1), steps_golden(1))]);
    fs::remove_file(models.join("plain/1/golden.json")).unwrap();
}
