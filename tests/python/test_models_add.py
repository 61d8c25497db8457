"""`rampart models add`: one command from a bare file to a model that answers as ONNX Runtime does in Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from exported import MAKERS, Inputs, iris

from rampart_client import Client, RampartError, Session, TokenFile
from running import REPOSITORY, Platform, started_platform

# Exporters warn of much that is not for those who use them.
pytestmark = pytest.mark.filterwarnings("default")

REFUSED = ["model version refused", "model does not serve as declared"]


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="rampart-models-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def own(folder) -> Platform:
    """A platform that starts without any model."""
    with started_platform(folder, REFUSED) as platform:
        yield platform


@pytest.fixture
def client(own):
    with Client(Session(own.front, ca_file=own.ca_file, auth=TokenFile(own.token_files["analyst"]))) as client:
        yield client


def add(own: Platform, path: Path, *options: str) -> subprocess.CompletedProcess:
    command = [
        os.environ["RAMPART_BINARY"],
        "models",
        "add",
        str(path),
        "--state",
        str(own.data / "state.json"),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def added(own: Platform, path: Path, *options: str) -> str:
    done = add(own, path, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def computed(path: Path, inputs: Inputs) -> list[np.ndarray]:
    """What ONNX Runtime gives in Python, with the maps of a ZipMap as rows of their values."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, inputs)
    return [
        np.array([list(row.values()) for row in output])
        if isinstance(output, list) and isinstance(output[0], dict)
        else output
        for output in outputs
    ]


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "OSU":
        assert got.astype(str).tolist() == wanted.astype(str).tolist()
    else:
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_bare_file_is_served_by_one_command(own, client, tmp_path, kind):
    path = tmp_path / f"{kind}.onnx"
    inputs = MAKERS[kind](path)
    printed = added(own, path)
    assert printed.startswith(f"{kind}: version 1 serves on every replica")
    answer = client.infer(kind, inputs)
    for got, wanted in zip(answer.values(), computed(path, inputs), strict=True):
        assert_same(got, wanted)


def test_what_is_printed_can_be_run(own, folder, tmp_path):
    path = tmp_path / "printed.onnx"
    MAKERS["columns-of-strings-and-floats"](path)
    printed = added(own, path)
    (curl,) = [line for line in printed.splitlines() if line.startswith("curl ")]
    done = subprocess.run(["bash", "-c", f"{curl} --silent --fail"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["predictions"][0]) == {"label", "probabilities"}
    python = printed[printed.index("# pip install") :]
    namespace: dict[str, object] = {}
    exec(python, namespace)  # it is what a reader would paste
    assert (folder / "printed" / "1" / "golden.json").exists()


def test_classes_of_a_zipmap_are_names(own, client, tmp_path):
    path = tmp_path / "named.onnx"
    inputs = MAKERS["zipmap-of-strings"](path)
    added(own, path)
    (prediction,) = client.predict("named", [{"X": inputs["X"][0].tolist()}])
    assert prediction["label"] == "setosa"
    assert set(prediction["probabilities"]) == {"setosa", "versicolor", "virginica"}


def test_a_sample_names_the_features(own, client, folder, tmp_path):
    path, sample = tmp_path / "sampled.onnx", tmp_path / "rows.csv"
    MAKERS["regression-without-zipmap"](path)
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    rows = iris()[0][::30]
    sample.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")
    added(own, path, "--sample", str(sample))
    golden = json.loads((folder / "sampled/1/golden.json").read_text())
    assert golden["inputs"][0]["shape"] == [len(rows), 4]
    record = dict(zip(names, map(float, rows[0]), strict=True))
    (prediction,) = client.predict("sampled", [record])
    assert_same(prediction["label"], computed(path, {"X": rows[:1]})[0][0])
    with pytest.raises(RampartError, match="petal_width"):
        client.predict("sampled", [{name: 1.0 for name in names[:3]}])


@pytest.mark.parametrize("form", ["npy", "npz", "matrix.npz"])
def test_a_sample_is_an_array_or_arrays_by_name(own, client, folder, tmp_path, form):
    name = f"arrays-{form.replace('.', '-')}"
    path, sample = tmp_path / f"{name}.onnx", tmp_path / f"rows.{form}"
    MAKERS["regression-without-zipmap"](path)
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    rows = np.asfortranarray(iris()[0][::30].astype(np.float64))
    if form == "npy":
        np.save(sample, rows)
    elif form == "npz":
        np.savez_compressed(sample, **dict(zip(names, rows.T, strict=True)))
    else:
        np.savez(sample, X=rows)
    added(own, path, "--sample", str(sample))
    golden = json.loads((folder / name / "1/golden.json").read_text())
    np.testing.assert_allclose(golden["inputs"][0]["data"], rows.ravel(), rtol=1e-6)
    record = dict(zip(names, map(float, rows[0]), strict=True)) if form == "npz" else {"X": rows[0].tolist()}
    (prediction,) = client.predict(name, [record])
    assert_same(prediction["label"], computed(path, {"X": rows[:1].astype(np.float32)})[0][0])


def test_a_sample_that_does_not_fit_is_told_and_leaves_nothing(own, folder, tmp_path):
    before = sorted(folder.iterdir())
    path = tmp_path / "unfit.onnx"
    MAKERS["regression-without-zipmap"](path)
    samples = {
        "objects.npy": ("Python objects", lambda file: np.save(file, np.array([{}], dtype=object))),
        "narrow.npy": ("[2, 3], where [N, 4] belongs", lambda file: np.save(file, np.ones((2, 3)))),
        "unnamed.npz": ("no such feature", lambda file: np.savez(file, np.ones((2, 4)), np.ones(2))),
        "cut.npz": (".npz", lambda file: file.write_bytes(b"PK\x03\x04")),
        "cut.parquet": ("to_parquet", lambda file: file.write_bytes(b"PAR1")),
        "rows.xlsx": (".parquet file", lambda file: file.write_bytes(b"PK")),
        "na.csv": ("the field is empty", lambda file: file.write_text("a,b,c,d\n1,2,3,NA\n")),
    }
    for name, (words, write) in samples.items():
        write(tmp_path / name)
        refused = add(own, path, "--sample", str(tmp_path / name))
        assert refused.returncode == 1 and words in refused.stderr, (
            name,
            refused.stderr,
        )
        assert "panicked" not in refused.stderr
    assert sorted(folder.iterdir()) == before


def test_nothing_is_overwritten(own, client, folder, tmp_path):
    path = tmp_path / "grown.onnx"
    MAKERS["no-batch-dimension"](path)
    added(own, path)
    declared = folder / "grown/model.toml"
    declared.write_text("# of a person\n" + declared.read_text())
    refused = add(own, path, "--version", "1")
    assert refused.returncode == 1 and "nothing is overwritten" in refused.stderr
    assert "version 2 serves" in added(own, path)
    assert "version 7 serves" in added(own, path, "--version", "7", "--alias", "next")
    assert declared.read_text().startswith("# of a person\n")
    served = {(model.version, model.state) for model in client.models() if model.name == "grown"}
    assert served == {("1", "READY"), ("2", "READY"), ("7", "READY")}
    inputs = {"x": np.ones(4, np.float32)}
    assert_same(client.infer("grown", inputs, "next")["y"], computed(path, inputs)[0])


def test_what_was_added_is_told_as_json(own, client, tmp_path):
    path = tmp_path / "told.onnx"
    MAKERS["no-batch-dimension"](path)
    told = json.loads(added(own, path, "--json"))
    assert set(told) == {"model", "version", "sha256", "champion", "golden_example", "features", "predict_url"}
    assert (told["model"], told["version"], told["golden_example"]) == ("told", "1", "drawn") and told["champion"]
    assert told["predict_url"] == f"{own.front}/api/models/told/versions/1/predict"


def test_what_is_refused_leaves_nothing(own, folder, tmp_path):
    before = sorted(folder.iterdir())
    files = {
        "pickle.onnx": (b"\x80\x04\x95pickle", "a pickle"),
        "empty.onnx": (b"", "the file is empty"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        refused = add(own, tmp_path / name)
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr
    newest = tmp_path / "newest.onnx"
    MAKERS["no-batch-dimension"](newest)
    import onnx

    model = onnx.load(newest)
    model.ir_version = 99
    onnx.save(model, newest)
    refused = add(own, newest)
    assert refused.returncode == 1 and re.search(r"IR version 99.*reads up to \d+: export it", refused.stderr), (
        refused.stderr
    )
    refused = add(own, tmp_path / "not there.onnx", "--name", "absent")
    assert refused.returncode == 1 and "not there.onnx" in refused.stderr
    assert sorted(folder.iterdir()) == before


def test_a_call_of_a_model_of_which_no_version_serves_is_told_why(own, client, folder):
    exported = REPOSITORY / "crates" / "serving" / "tests" / "data" / "models"
    shutil.copytree(exported / "onnx-default", folder / "onnx-default")
    headers = own.bearer("engineer")
    load = httpx.post(
        f"{own.front}/v2/repository/models/onnx-default/load", headers=headers, verify=own.ssl_context(), timeout=60
    )
    assert load.status_code == 409
    with (
        Client(client.session, retry_for_s=0) as impatient,
        pytest.raises(RampartError, match=r"version 1: .*IR version"),
    ):
        impatient.infer("onnx-default", {"x": np.zeros((1, 4), np.float32)})
    shutil.rmtree(folder / "onnx-default")


def check(own: Platform, path: Path, *options: str) -> tuple[int, str]:
    state = str(own.data / "state.json")
    command = [os.environ["RAMPART_BINARY"], "models", "check", str(path), "--state", state, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_check_lists_everything_that_is_wrong_and_loads_nothing(own, client, folder, tmp_path):
    path = tmp_path / "checked.onnx"
    MAKERS["no-batch-dimension"](path)
    assert check(own, path) == (0, f"{path}: can be served\n")
    np.save(tmp_path / "x.npy", np.ones(4))
    assert check(own, path, "--sample", str(tmp_path / "x.npy")) == (0, f"{path}: can be served\n")
    np.save(tmp_path / "x.npy", np.ones(5))
    code, printed = check(own, path, "--sample", str(tmp_path / "x.npy"))
    assert code == 1 and "[5], where [4] belongs" in printed, printed
    for _ in range(3):
        added(own, path)
    model = tmp_path / "checked"
    shutil.copytree(folder / "checked", model)
    assert check(own, model) == (0, f"{model}: all versions can be served\n")
    (model / "1/model.onnx").write_bytes(b"\x80\x04\x95pickle")
    golden = json.loads((model / "2/golden.json").read_text())
    golden["outputs"][0]["data"][0] += 1
    (model / "2/golden.json").write_text(json.dumps(golden))
    (model / "3/golden.json").unlink()
    (model / "4").mkdir()
    code, printed = check(own, model)
    assert code == 1
    for words in (
        "version 1: model.onnx: not an ONNX model but a pickle",
        "version 2: the model does not give its golden",
        "version 3: golden.json: is missing",
        "version 4: its folder is there",
    ):
        assert words in printed, printed
    assert {model.state for model in client.models() if model.name == "checked"} == {"READY"}


def test_check_lists_everything_that_is_wrong_with_a_bare_file(own, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    path = tmp_path / "wrong.onnx"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("SplitToSequence", ["x"], ["pieces"]), helper.make_node("Identity", ["z"], ["y"])],
        "wrong",
        [value("x", TensorProto.FLOAT, [None, 2]), value("z", TensorProto.COMPLEX64, [None])],
        [
            helper.make_tensor_sequence_value_info("pieces", TensorProto.FLOAT, None),
            value("y", TensorProto.COMPLEX64, [None]),
        ],
        [weight("w", "../w.bin"), weight("v", "v.bin")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 98)])
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    expected = (
        '"../w.bin", which cannot be a file beside it',
        "v.bin: No such file",
        "IR version 99",
        "of opset 98",
        '"z" has elements of type complex64',
        '"pieces" is a sequence',
        '"y" has elements of type complex64',
    )
    code, printed = check(own, path)
    assert code == 1
    assert_lines(printed.splitlines(), expected)
    code, printed = check(own, path, "--json")
    told = json.loads(printed)
    assert (code, told["path"], told["can_be_served"]) == (1, str(path), False)
    assert_lines(told["findings"], expected)
    refused = add(own, path)
    assert refused.returncode == 1 and all(words in refused.stderr for words in expected), refused.stderr

    # What is left is told again, with what is wrong with a sample.
    (tmp_path / "v.bin").write_bytes(bytes(4))
    del graph.initializer[0]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    code, printed = check(own, path, "--sample", str(tmp_path / "rows.txt"))
    assert code == 1
    for words in ("rows.txt", '"z" has elements', '"pieces" is a', '"y" has elements'):
        assert words in printed, printed
    path.write_bytes(b"\x80\x04\x95pickle")
    code, printed = check(own, path, "--sample", str(tmp_path / "absent.csv"))
    assert code == 1
    assert_lines(printed.splitlines(), ("a pickle", "absent.csv: No such file"))


def weight(name: str, location: str):
    """A constant that lies in another file."""
    from onnx import StringStringEntryProto, TensorProto

    entry = StringStringEntryProto(key="location", value=location)
    return TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=[1],
        data_location=TensorProto.EXTERNAL,
        external_data=[entry],
    )


def assert_lines(lines: list[str], words: tuple[str, ...]) -> None:
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        assert word in line, lines


def test_check_lists_what_is_wrong_with_declaration_and_files(own, folder, tmp_path):
    path = tmp_path / "declared.onnx"
    MAKERS["no-batch-dimension"](path)
    for _ in range(2):
        added(own, path)
    model = tmp_path / "declared"
    shutil.copytree(folder / "declared", model)
    (model / "2/model.onnx").write_bytes(b"\x80\x04\x95pickle")
    text = (model / "model.toml").read_text().replace('champion = "1"', 'champion = "9"\n7 = "1"')
    (model / "model.toml").write_text(text.replace("sha256", "source", 1))
    code, printed = check(own, model)
    assert code == 1
    for words in (
        "versions.1.sha256: is missing",
        "aliases.champion: there is no version 9",
        "aliases.7",
        "version 2: model",
    ):
        assert words in printed, printed
