"""`rampart models register` and `adopt` against a real MLflow: what they leave there is what a replica asks for.

`RAMPART_MLFLOW` names the program `mlflow` of an environment with the version of docker/mlflow/requirements.txt.
scripts/test makes one; without it nothing is run here. `tests/tests/containers/models.rs` shows the same on a platform.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from exported import MAKERS

from poll import until

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif("RAMPART_MLFLOW" not in os.environ, reason="RAMPART_MLFLOW names no MLflow"),
]


@dataclass(frozen=True)
class Registry:
    """An MLflow on this machine, which asks for no token; the commands send one anyway."""

    address: str
    ca_file: Path
    token_file: Path

    def ask(self, path: str, /, **query: str) -> dict:
        url = f"{self.address}/api/2.0/{path}?{urllib.parse.urlencode(query)}"
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.address}/api/2.0/mlflow/{path}", data, headers)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return json.load(answer)

    def version(self, name: str, number: int) -> dict:
        version = self.ask("mlflow/model-versions/get", name=name, version=str(number))["model_version"]
        version["tags"] = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        return version

    def aliases(self, name: str) -> dict[str, str]:
        model = self.ask("mlflow/registered-models/get", name=name)["registered_model"]
        return {alias["alias"]: alias["version"] for alias in model.get("aliases", [])}

    def folder(self, name: str, number: int) -> str:
        found = self.ask("mlflow/model-versions/get-download-uri", name=name, version=str(number))
        return found["artifact_uri"].removeprefix("mlflow-artifacts:/")

    def files(self, name: str, number: int) -> dict[str, bytes]:
        folder = self.folder(name, number)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        files = {}
        for file in self.ask("mlflow-artifacts/artifacts", path=folder)["files"]:
            path = urllib.parse.quote(f"{folder}/{file['path']}")
            url = f"{self.address}/api/2.0/mlflow-artifacts/artifacts/{path}"
            with urllib.request.urlopen(url, context=context, timeout=60) as answer:
                files[file["path"]] = answer.read()
        return files

    def put(self, folder: str, name: str, content: bytes) -> None:
        url = f"{self.address}/api/2.0/mlflow-artifacts/artifacts/{folder}/{urllib.parse.quote(name)}"
        request = urllib.request.Request(url, content, method="PUT")
        context = ssl.create_default_context(cafile=str(self.ca_file))
        urllib.request.urlopen(request, context=context, timeout=60).close()

    def models(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [os.environ["RAMPART_BINARY"], "models", *arguments, "--no-wait"]
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.address,
            "RAMPART_CA_FILE": str(self.ca_file),
            "RAMPART_TOKEN_FILE": str(self.token_file),
        }
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    def done(self, *arguments: str) -> str:
        done = self.models(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        refused = self.models(*arguments)
        assert refused.returncode == 1, refused.stdout
        return refused.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    certify(folder)
    (folder / "token").write_text("none\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        os.environ["RAMPART_MLFLOW"], "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/db.sqlite", "--serve-artifacts",
        "--artifacts-destination", str(folder / "artifacts"),
        "--uvicorn-opts", f"--ssl-keyfile {folder}/key.pem --ssl-certfile {folder}/ca.pem",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    made = Registry(f"https://localhost:{port}", folder / "ca.pem", folder / "token")
    try:
        until("MLflow answers", 120, lambda: answers(made, server))
        yield made
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def answers(registry: Registry, server: subprocess.Popen) -> bool:
    assert server.poll() is None, "MLflow ended"
    try:
        return isinstance(registry.ask("mlflow/registered-models/search"), dict)
    except urllib.error.URLError:
        return False


def certify(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole(files: dict[str, bytes], weights: list[str]) -> str:
    """The digest that a version's tag must have."""
    if not weights:
        return sha256(files["model.onnx"])
    lines = [f"{sha256(files[name])}  {name}\n" for name in sorted(["model.onnx", *weights])]
    return sha256("".join(lines).encode())


def assert_serves(name: str, files: dict[str, bytes], folder: Path) -> dict:
    """Judges the files as a replica does, in a folder as its mirror writes it; returns the declaration."""
    declared = tomllib.loads(files["rampart.toml"].decode())
    model = folder / name
    (model / "1").mkdir(parents=True)
    weights = declared.get("data", {})
    for file in ("model.onnx", "golden.json", *weights):
        (model / "1" / file).write_bytes(files[file])
    data = "".join(f'"{file}" = "{digest}"\n' for file, digest in weights.items())
    tensors = files["rampart.toml"].decode().split("[data]")[0]
    text = f'name = "{name}"\n{tensors}\n[versions.1]\nsha256 = "{sha256(files["model.onnx"])}"\n'
    (model / "model.toml").write_text(text + (f"[versions.1.data]\n{data}" if data else ""))
    serving = Path(os.environ["RAMPART_BINARY"]).with_name("rampart-serving")
    checked = subprocess.run([serving, "check-model", model], capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return declared


def heavy(path: Path, location: str) -> None:
    """A model with weights in a file beside it, as mlflow.onnx.log_model saves every larger one."""
    weights = onnx.numpy_helper.from_array(np.arange(1200, dtype=np.float32).reshape(400, 3) / 1000, "w")
    specs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", n]) for name, n in [("x", 400), ("y", 3)]
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", specs[:1], specs[1:], [weights]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location=location)


def log_as_mlflow_does(registry: Registry, name: str, files: dict[str, bytes]) -> None:
    """What `mlflow.onnx.log_model(model, name="model", registered_model_name=name)` leaves: no tag, no signature."""
    model = registry.post("logged-models", {"experiment_id": "0", "name": "model"})["model"]["info"]
    folder = model["artifact_uri"].removeprefix("mlflow-artifacts:/")
    mlmodel = f"artifact_path: {model['artifact_uri']}\nflavors:\n  onnx:\n    code: null\n    data: model.onnx\n"
    mlmodel += (
        f"  python_function:\n    data: model.onnx\n    loader_module: mlflow.onnx\nmodel_id: {model['model_id']}\n"
    )
    beside = {"MLmodel": mlmodel.encode(), "conda.yaml": b"name: x\n", "requirements.txt": b"mlflow\n"}
    for file, content in {**files, **beside}.items():
        registry.put(folder, file, content)
    registry.post("registered-models/create", {"name": name})
    source = f"models:/{model['model_id']}"
    registry.post("model-versions/create", {"name": name, "source": source, "model_id": model["model_id"]})


def test_register_leaves_all_that_a_replica_asks_for(registry, tmp_path):
    path, sample = tmp_path / "iris.onnx", tmp_path / "rows.npz"
    MAKERS["regression-without-zipmap"](path)
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    np.savez_compressed(sample, **{name: np.linspace(0, 3, 5) + at for at, name in enumerate(names)})
    printed = registry.done("register", str(path), "--sample", str(sample))
    assert "iris: version 1 is in MLflow" in printed and "/api/models/iris/versions/1/predict" in printed, printed
    files = registry.files("iris", 1)
    assert registry.version("iris", 1)["tags"]["sha256"] == whole(files, [])
    assert registry.aliases("iris") == {"champion": "1"}
    assert json.loads(files["golden.json"])["inputs"][0]["shape"] == [5, 4]
    signature = re.search(r"inputs: '(.*)'", files["MLmodel"].decode()).group(1)
    assert json.loads(signature)[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 4]}
    assert assert_serves("iris", files, tmp_path)["inputs"][0]["columns"] == names


def test_nothing_is_registered_twice(registry, tmp_path):
    path = tmp_path / "twice.onnx"
    MAKERS["no-batch-dimension"](path)
    registry.done("register", str(path))
    assert "version 1 of twice has these very files" in registry.refused("register", str(path))
    model = onnx.load(path)
    model.doc_string = "another"
    onnx.save(model, path)
    printed = registry.done("register", str(path), "--alias", "next")
    assert "twice: version 2 is in MLflow" in printed and "and not version 2" in printed, printed
    assert registry.aliases("twice") == {"champion": "1", "next": "2"}


def test_what_cannot_be_served_is_not_registered(registry, tmp_path):
    (tmp_path / "pickle.onnx").write_bytes(b"\x80\x04\x95pickle")
    assert "a pickle" in registry.refused("register", str(tmp_path / "pickle.onnx"))
    with pytest.raises(urllib.error.HTTPError):
        registry.aliases("pickle")


def test_weights_are_registered_with_their_model(registry, tmp_path):
    path = tmp_path / "heavy.onnx"
    heavy(path, "heavy weights.data")
    registry.done("register", str(path))
    files = registry.files("heavy", 1)
    assert registry.version("heavy", 1)["tags"]["sha256"] == whole(files, ["heavy weights.data"])
    assert_serves("heavy", files, tmp_path)


def test_adopt_adds_what_is_missing_and_changes_nothing(registry, tmp_path):
    heavy(tmp_path / "model.onnx", "07c434ca-ed3b.data")
    given = {name: (tmp_path / name).read_bytes() for name in ("model.onnx", "07c434ca-ed3b.data")}
    log_as_mlflow_does(registry, "plain", given)
    before = registry.files("plain", 1)
    printed = registry.done("adopt", "plain", "1")
    assert "plain: version 1 has now golden.json and rampart.toml" in printed, printed
    files = registry.files("plain", 1)
    assert {name: files[name] for name in before} == before
    assert registry.version("plain", 1)["tags"]["sha256"] == whole(files, ["07c434ca-ed3b.data"])
    assert registry.aliases("plain") == {"champion": "1"}
    assert_serves("plain", files, tmp_path)
    assert "plain: version 1 has all that it needs" in registry.done("adopt", "plain", "1")
    assert registry.files("plain", 1) == files


def test_adopt_says_what_it_cannot_adopt(registry, tmp_path):
    assert "MLflow has no registered model absent" in registry.refused("adopt", "absent", "1")
    heavy(tmp_path / "model.onnx", "lost.data")
    log_as_mlflow_does(registry, "lost", {"model.onnx": (tmp_path / "model.onnx").read_bytes()})
    assert "lost has no version 2" in registry.refused("adopt", "lost", "2")
    assert "lost.data" in registry.refused("adopt", "lost", "1")
    assert registry.version("lost", 1)["tags"] == {}
    log_as_mlflow_does(registry, "tagged", {"model.onnx": plain_model(tmp_path)})
    tag = {"name": "tagged", "version": "1", "key": "sha256", "value": "0" * 64}
    registry.post("model-versions/set-tag", tag)
    assert "nothing is overwritten" in registry.refused("adopt", "tagged", "1")
    assert "golden.json" not in registry.files("tagged", 1)


def plain_model(folder: Path) -> bytes:
    path = folder / "plain.onnx"
    MAKERS["no-batch-dimension"](path)
    return path.read_bytes()


def test_mlflow_itself_reads_what_was_registered(registry, tmp_path):
    path = tmp_path / "readable.onnx"
    heavy(path, "readable.data")
    registry.done("register", str(path))
    # Its container has no onnx, so that what it fetches is loaded here.
    python = Path(os.environ["RAMPART_MLFLOW"]).with_name("python")
    script = "import sys, mlflow; mlflow.artifacts.download_artifacts('models:/readable/1', dst_path=sys.argv[1])"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": registry.address,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(registry.ca_file),
    }
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    command = [python, "-c", script, str(fetched)]
    read = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert read.returncode == 0, read.stderr
    assert onnx.load(fetched / "model.onnx").graph == onnx.load(path).graph
    assert "onnx:" in (fetched / "MLmodel").read_text()
