"""`rampart dev` with models of one's own: it runs and predicts with whatever serves, and says what does not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from poll import until
from running import REPOSITORY

EXPORTED = REPOSITORY / "crates" / "serving" / "tests" / "data" / "models"
TIMEOUT_S = 120


@pytest.fixture
def folder():
    # Under root PostgreSQL runs as another user, which must be able to pass through: not pytest's own.
    with tempfile.TemporaryDirectory(prefix="rampart own models ") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def command(models: Path, *options: str) -> list[str]:
    return [
        os.environ["RAMPART_BINARY"], "dev", "--port", "0", "--models", str(models),
        "--onnxruntime", os.environ["RAMPART_ONNXRUNTIME"],
        "--onnxruntime-sha256", os.environ["RAMPART_ONNXRUNTIME_SHA256"], *options,
    ]  # fmt: skip


def once(models: Path, *options: str) -> str:
    """What it prints until its first prediction, after which it ends."""
    done = subprocess.run(command(models, "--once", *options), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("model", ["titanic", "no-batch", "half", "golden-nested"])
def test_demo_takes_a_golden_example(folder, model):
    shutil.copytree(EXPORTED / model, folder / model)
    assert f": {model} version 1 says " in once(folder)


def test_demo_takes_a_golden_example_with_missing_values(folder):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("IsNaN", ["x"], ["y"])],
        "missing",
        [value("x", TensorProto.FLOAT, [None, 2])],
        [value("y", TensorProto.BOOL, [None, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (folder / "missing" / "1").mkdir(parents=True)
    onnx.save(model, folder / "missing/1/model.onnx")
    digest = hashlib.sha256((folder / "missing/1/model.onnx").read_bytes()).hexdigest()
    (folder / "missing/model.toml").write_text(
        f'name = "missing"\n[versions.1]\nsha256 = "{digest}"\n'
        '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 2]\ncolumns = ["age", "fare"]\n'
        '[[outputs]]\nname = "y"\ndatatype = "BOOL"\nshape = [-1, 2]\n'
    )
    golden = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [None, 7.25]}],
        "outputs": [{"name": "y", "datatype": "BOOL", "shape": [1, 2], "data": [True, False]}],
        "tolerance": 0,
    }
    (folder / "missing/1/golden.json").write_text(json.dumps(golden))
    assert ': missing version 1 says {"y":[true,false]}' in once(folder)


def test_a_model_that_does_not_load_is_reported_and_others_serve(folder):
    for model in ("onnx-default", "no-batch"):
        shutil.copytree(EXPORTED / model, folder / model)
    printed = once(folder)
    assert "onnx-default version 1 does not serve: " in printed
    assert ": no-batch version 1 says " in printed


def test_an_empty_folder_still_prints_how_to_go_on(folder):
    printed = once(folder)
    for words in ("no prediction is made", "front door     https://", "admin token", "rampart models add FILE.onnx"):
        assert words in printed


def test_an_account_that_is_gone_stops_nothing(folder):
    models, data = folder / "models", folder / "data"
    models.mkdir()
    shutil.copytree(EXPORTED / "no-batch", models / "no-batch")
    output = folder / "output"
    with output.open("w") as log:
        process = subprocess.Popen(command(models, "--data", str(data)), stdout=log, stderr=log)
    try:
        until("rampart dev is ready", TIMEOUT_S, lambda: "running; Ctrl-C" in output.read_text())
        assert "curl --cacert '" in output.read_text(), "a path with a space is one word of the shell"
        state = json.loads((data / "state.json").read_text())
        admin = {"authorization": f"Bearer {Path(state['tokens']['admin']).read_text().strip()}"}
        with httpx.Client(base_url=state["front"], verify=_trusting(state["ca_file"]), headers=admin) as client:
            users = client.get("/api/admin/users").json()["users"]
            (viewer,) = [user["id"] for user in users if user["name"] == "example-viewer"]
            assert client.delete(f"/api/admin/users/{viewer}").is_success
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    printed = once(models, "--data", str(data))
    assert "no token for viewer" in printed and "remove secrets/operator/viewer-client-secret" in printed
    assert ": no-batch version 1 says " in printed
    # It says what to do, and that is what helps.
    (data / "secrets/operator/viewer-client-secret").unlink()
    assert "no token for" not in once(models, "--data", str(data))


def _trusting(ca_file: str):
    import ssl

    return ssl.create_default_context(cafile=ca_file)
