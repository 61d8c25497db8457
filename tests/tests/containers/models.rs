//! Proves that a model of a stranger is served out of MLflow: from a bare file by one command, and from what MLflow's own client logged by
//! another.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    checkout::{binary, onnxruntime, repository},
    containers::Containers,
};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

const PASSWORD: &str = "a password of twenty-seven";
const ENGINEER: &str = "model-maker";
/// The weights of the model lie in this file beside it.
const WEIGHTS: &str = "ext.onnx.data";

/// An engineer at the command line.
pub(crate) struct Engineer<'a> {
    platform: &'a Containers,
    token_file: PathBuf,
    token: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_a_stranger_are_served_out_of_mlflow() {
    let platform = Containers::from_environment().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let engineer = Engineer::new(&platform, folder.path()).await.unwrap();
    let given = repository().join("crates/serving/tests/data/models/external-data/1");
    let file = folder.path().join("model.onnx");
    fs::copy(given.join("model.onnx"), &file).unwrap();
    fs::copy(given.join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
    let file = file.to_str().unwrap();

    let register = ["register", file, "--name", "weighty"];
    let printed = text(&engineer.models(&register).await.unwrap());
    assert!(printed.contains("weighty: version 1 serves"), "{printed}");
    engineer.expect_golden("weighty", &given).await.unwrap();
    let refused = engineer.models(&register).await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has these very files"), "{refused:?}");

    log_as_mlflow_does(&platform, "logged", &given).await.unwrap();
    let printed = text(&engineer.models(&["adopt", "logged", "1"]).await.unwrap());
    assert!(printed.contains("logged: version 1 serves"), "{printed}");
    engineer.expect_golden("logged", &given).await.unwrap();

    for name in ["weighty", "logged"] {
        engineer.delete(name).await.unwrap();
    }
}

/// What a command that succeeded printed.
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

// === impl Engineer ===

impl<'a> Engineer<'a> {
    /// Signs in; the token is kept in the folder.
    pub(crate) async fn new(platform: &'a Containers, folder: &Path) -> anyhow::Result<Self> {
        let user = json!({ "name": ENGINEER, "kind": "person", "tenant": "default", "roles": ["engineer"], "password": PASSWORD });
        let admin = platform.admin().await?;
        let (status, answer) = platform.front.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await?;
        ensure!(status.is_success() || status == 409, "making the engineer: {status} {answer}");
        let grant = json!({ "grant_type": "password", "username": ENGINEER, "password": PASSWORD });
        let token = platform.front.token(&grant).await?;
        let token_file = folder.join("token");
        fs::write(&token_file, &token)?;
        Ok(Self { platform, token_file, token })
    }

    /// `rampart models` with these arguments.
    pub(crate) async fn models(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let (library, sha256) = onnxruntime()?;
        let front = format!("https://localhost:{}", self.platform.front.address.port());
        let mut command = Command::new(binary("rampart")?);
        command.arg("models").args(arguments).env_remove("MLFLOW_TRACKING_URI");
        command.env("RAMPART_FRONT", front).env("RAMPART_CA_FILE", &self.platform.front.ca_file);
        command.env("RAMPART_TOKEN_FILE", &self.token_file);
        command.env("RAMPART_ONNXRUNTIME", library).env("RAMPART_ONNXRUNTIME_SHA256", sha256);
        command.output().await.context("cannot run rampart")
    }

    /// What it signed in with.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Takes a model out of MLflow, with all of its versions.
    pub(crate) async fn delete(&self, model: &str) -> anyhow::Result<()> {
        let body = json!({ "name": model });
        let path = "/api/2.0/mlflow/registered-models/delete";
        let (status, answer) = self.platform.front.call(Method::DELETE, path, Some(&self.token), Some(&body)).await?;
        ensure!(status.is_success(), "deleting {model}: {status} {answer}");
        Ok(())
    }

    /// The champion of a model answers what ONNX Runtime gave in Python.
    async fn expect_golden(&self, model: &str, given: &Path) -> anyhow::Result<()> {
        let golden: Value = serde_json::from_slice(&fs::read(given.join("golden.json"))?)?;
        let path = format!("/v2/models/{model}/infer");
        let body = json!({ "inputs": golden.get("inputs") });
        let (status, answer) = self.platform.front.call(Method::POST, &path, Some(&self.token), Some(&body)).await?;
        ensure!(status.is_success(), "{status} {answer}");
        let numbers = |value: &Value| {
            let data = value.pointer("/outputs/0/data").and_then(Value::as_array);
            data.map(|data| data.iter().filter_map(Value::as_f64).collect::<Vec<_>>()).context("no numbers")
        };
        let (got, wanted) = (numbers(&answer)?, numbers(&golden)?);
        ensure!(got.len() == wanted.len(), "{} numbers, not {}", got.len(), wanted.len());
        let is_near = |(got, wanted): (&f64, &f64)| (got - wanted).abs() <= 1e-4 * wanted.abs().max(1.0);
        ensure!(got.iter().zip(&wanted).all(is_near), "the answer is not the golden one");
        Ok(())
    }
}

/// What `mlflow.onnx.log_model(model, name="model", registered_model_name=name)` leaves, made in MLflow's own container with its own client:
/// weights in a second file, no signature, no tag and no golden example.
async fn log_as_mlflow_does(platform: &Containers, name: &str, given: &Path) -> anyhow::Result<()> {
    let script = r"
import base64, json, os, sys, tempfile
import mlflow
from mlflow.models import Model
os.environ['MLFLOW_TRACKING_URI'] = 'http://localhost:5001'
given = json.load(sys.stdin)
client = mlflow.MlflowClient()
logged = client.create_logged_model('0', 'model')
with tempfile.TemporaryDirectory() as folder:
    for file, content in given['files'].items():
        open(os.path.join(folder, file), 'wb').write(base64.b64decode(content))
    described = Model(artifact_path=logged.artifact_location, model_id=logged.model_id)
    described.add_flavor('onnx', data='model.onnx')
    described.save(os.path.join(folder, 'MLmodel'))
    client.log_model_artifacts(logged.model_id, folder)
client.finalize_logged_model(logged.model_id, 'READY')
client.create_registered_model(given['name'])
client.create_model_version(given['name'], f'models:/{logged.model_id}', model_id=logged.model_id)
";
    let read = |file: &str| anyhow::Ok(encode(&fs::read(given.join(file))?));
    let files = json!({ "model.onnx": read("model.onnx")?, WEIGHTS: read(WEIGHTS)? });
    let container = platform.container("mlflow").name;
    let mut command = Command::new("docker");
    command.args(["exec", "--interactive", &container, "python", "-c", script]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut running = command.spawn().context("cannot run docker")?;
    let mut input = running.stdin.take().context("docker takes no input")?;
    let given = json!({ "name": name, "files": files }).to_string();
    tokio::io::AsyncWriteExt::write_all(&mut input, given.as_bytes()).await?;
    drop(input);
    let done = running.wait_with_output().await?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
