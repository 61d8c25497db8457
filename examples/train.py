"""Trains the example models, exports them to ONNX and proves each export equal to scikit-learn.

    python train.py            rewrites models/
    python train.py --check    trains again, writes nothing, and proves the committed files equal to what it trained

Run it in a virtual environment made with `pip install --require-hashes -r requirements.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from data import load_split
from recipes import RECIPES, Recipe, fit

# Before the import: it would keep telemetry in ~/.cache and send it to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

MODELS = Path(__file__).parent / "models"
OPSET = {"": 18, "ai.onnx.ml": 3}
PROBABILITY_TOLERANCE = 1e-5
GOLDEN_ROWS = 4


@dataclass(frozen=True)
class Trained:
    """One version: the exported file, and what scikit-learn itself answers on the whole held-out split."""

    model: bytes
    features: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, export and verify the example models.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check_only = parser.parse_args().check
    for recipe in RECIPES:
        trained = {version: train(recipe, version) for version in recipe.versions}
        # A test that asks for a version must be able to see which one answered.
        first, *others = (version.probabilities for version in trained.values())
        assert all(np.abs(first - other).max() > 0.01 for other in others), f"{recipe.name}: the versions are alike"
        if check_only:
            check(recipe, trained)
        else:
            write(recipe, trained)
    return 0


def train(recipe: Recipe, version: str) -> Trained:
    split = load_split(recipe.data_set)
    estimator = fit(recipe, version)
    features = split.held_out_features
    labels, probabilities = estimator.predict(features), estimator.predict_proba(features)
    trained = Trained(export(recipe, version, estimator, features.shape[1]), features, labels, probabilities)
    assert_equal(f"{recipe.name} version {version}, fresh export", trained.model, trained)
    print(
        f"{recipe.name} version {version}: {len(trained.model):,} bytes, "
        f"held-out accuracy {np.mean(labels == split.held_out_labels):.3f}, "
        f"ONNX Runtime equals scikit-learn on all {len(labels)} held-out rows"
    )
    return trained


def write(recipe: Recipe, trained: dict[str, Trained]) -> None:
    folder = MODELS / recipe.name
    for version, it in trained.items():
        (folder / version).mkdir(parents=True, exist_ok=True)
        (folder / version / "model.onnx").write_bytes(it.model)
        (folder / version / "golden.json").write_text(golden(it))
    (folder / "model.toml").write_text(manifest(recipe, trained))


def check(recipe: Recipe, trained: dict[str, Trained]) -> None:
    """The committed files answer as scikit-learn does here.

    Their bytes are reported but not demanded: a CPU with other vector units may round the last bit of a weight
    otherwise, and the model would still be the same one.
    """
    folder = MODELS / recipe.name
    digests = (folder / "model.toml").read_text()
    for version, it in trained.items():
        committed = (folder / version / "model.onnx").read_bytes()
        what = f"{recipe.name} version {version}, committed file"
        assert hashlib.sha256(committed).hexdigest() in digests, f"{what}: its digest is not in model.toml"
        assert_equal(what, committed, it)
        print(f"{what}: equal too, {'and' if committed == it.model else 'though not'} the same bytes")


def export(recipe: Recipe, version: str, estimator, width: int) -> bytes:
    # ZipMap would turn the probabilities into a list of maps, which no tensor protocol can carry.
    model = to_onnx(
        estimator,
        name=f"{recipe.name}-{version}",
        initial_types=[("input", FloatTensorType([None, width]))],
        target_opset=OPSET,
        options={"zipmap": False},
    )
    # skl2onnx fills this list from a set, whose order changes with the interpreter's hash seed.
    model.opset_import.sort(key=lambda entry: entry.domain)
    return model.SerializeToString(deterministic=True)


def assert_equal(what: str, model: bytes, truth: Trained) -> None:
    """Labels exact and probabilities within the tolerance, in one batch and row by row."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    row_count = len(truth.labels)
    for rows in [slice(None), *(slice(row, row + 1) for row in range(row_count))]:
        labels, probabilities = session.run(["label", "probabilities"], {"input": truth.features[rows]})
        assert labels.dtype == np.int64 and probabilities.dtype == np.float32, what
        assert np.array_equal(labels, truth.labels[rows]), f"{what}: labels differ from scikit-learn"
        distance = float(np.abs(probabilities - truth.probabilities[rows]).max())
        assert distance <= PROBABILITY_TOLERANCE, f"{what}: a probability is {distance} away from scikit-learn"


def golden(trained: Trained) -> str:
    """A few inputs with scikit-learn's answers, for a server to compare with before it takes a version into service."""
    # Of as many classes as there is room for: a model that always answers the same must not pass.
    classes = np.unique(trained.labels)[:GOLDEN_ROWS]
    rows = [int(np.flatnonzero(trained.labels == label)[0]) for label in classes]
    rows += [row for row in range(len(trained.labels)) if row not in rows][: GOLDEN_ROWS - len(rows)]
    document = {
        "inputs": [tensor("input", "FP32", trained.features[rows])],
        "outputs": [
            tensor("label", "INT64", trained.labels[rows]),
            tensor("probabilities", "FP32", trained.probabilities[rows].astype(np.float32)),
        ],
        "tolerance": PROBABILITY_TOLERANCE,
    }
    return json.dumps(document) + "\n"


def tensor(name: str, datatype: str, values: np.ndarray) -> dict:
    # str() of a float32 is its shortest exact spelling; .item() would print the float64 beside it.
    to_number = int if datatype == "INT64" else lambda value: float(str(value))
    data = [to_number(value) for value in values.ravel()]
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": data}


def manifest(recipe: Recipe, trained: dict[str, Trained]) -> str:
    any_version = next(iter(trained.values()))
    versions = "\n".join(
        f'[versions.{version}]\nsha256 = "{hashlib.sha256(it.model).hexdigest()}"\n' for version, it in trained.items()
    )
    return f"""\
# Written by examples/train.py. The digests are those of <version>/model.onnx.
name = "{recipe.name}"
description = "{recipe.description}"

[aliases]
champion = "{recipe.champion}"

{versions}
[[inputs]]
name = "input"
datatype = "FP32"
shape = [-1, {any_version.features.shape[1]}]

[[outputs]]
name = "label"
datatype = "INT64"
shape = [-1]

[[outputs]]
name = "probabilities"
datatype = "FP32"
shape = [-1, {any_version.probabilities.shape[1]}]
"""


if __name__ == "__main__":
    sys.exit(main())
