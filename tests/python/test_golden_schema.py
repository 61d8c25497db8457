"""docs/api/golden.schema.json says of a golden.json what `rampart models check` says of it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess

import jsonschema
import pytest

from programs import Done, run
from running import EXAMPLES, REPOSITORY

SCHEMA = json.loads((REPOSITORY / "docs" / "api" / "golden.schema.json").read_text())
HALF = REPOSITORY / "crates" / "serving" / "tests" / "data" / "models" / "half"
TITANIC = HALF.with_name("titanic")


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*golden.json"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture
def check(platform, tmp_path):
    """`rampart models check` of a model of the repository with another golden.json."""

    def call(model, golden: dict) -> Done:
        folder = tmp_path / model.name
        shutil.copytree(model, folder, dirs_exist_ok=True)
        (folder / "1" / "golden.json").write_text(json.dumps(golden))
        command = [os.environ["RAMPART_BINARY"], "models", "check", folder, "--state", platform.data / "state.json"]
        return run(command, environment={"LOCPATH": os.environ.get("LOCPATH", "")})

    return call


def golden_of(model) -> dict:
    return json.loads((model / "1" / "golden.json").read_text())


def with_change(golden: dict, path: list, value) -> dict:
    """A copy with something else in one place; `...` takes it away."""
    golden = copy.deepcopy(golden)
    place = golden
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return golden


def test_every_golden_example_of_the_repository_is_of_the_schema(schema):
    files = tracked()
    folders = {path.relative_to(REPOSITORY).as_posix() for path in EXAMPLES.glob("*/*/golden.json")}
    assert folders <= set(files)
    assert HALF.relative_to(REPOSITORY).as_posix() + "/1/golden.json" in files
    for file in files:
        schema.validate(json.loads((REPOSITORY / file).read_text()))


BROKEN = {
    "no inputs": (HALF, ["inputs"], ...),
    "no outputs": (HALF, ["outputs"], []),
    "no tolerance": (HALF, ["tolerance"], ...),
    "tolerance of one": (HALF, ["tolerance"], 1),
    "tolerance below zero": (HALF, ["tolerance"], -1e-3),
    "tolerance as text": (HALF, ["tolerance"], "0.001"),
    "unknown field": (HALF, ["tolerence"], 1e-3),
    "tensors by name": (HALF, ["inputs"], {"x": [[1, 2, 3, 4]]}),
    "no name": (HALF, ["inputs", 0, "name"], ...),
    "no datatype": (HALF, ["inputs", 0, "datatype"], ...),
    "no shape": (HALF, ["inputs", 0, "shape"], ...),
    "no data": (HALF, ["outputs", 0, "data"], ...),
    "datatype of NumPy": (HALF, ["inputs", 0, "datatype"], "float16"),
    "shape below zero": (HALF, ["inputs", 0, "shape"], [-1, 4]),
    "shape of half a row": (HALF, ["inputs", 0, "shape"], [1.5, 4]),
    "empty output": (HALF, ["outputs", 0], {"name": "y", "datatype": "FP16", "shape": [0, 3], "data": []}),
    "data as text": (HALF, ["inputs", 0, "data"], "AAAA"),
    "number as text": (HALF, ["inputs", 0, "data", 0], "1"),
    "null in an output": (HALF, ["outputs", 0, "data", 0], None),
    "null in an output that is nested": (HALF, ["outputs", 0, "data"], [[None, 1.36, -2.38], [-1.08, 1.58, 0.61]]),
    "null in BYTES": (TITANIC, ["inputs", 2, "data", 0], None),
    "beyond FP16": (HALF, ["inputs", 0, "data", 0], 65520),
    "number in BYTES": (TITANIC, ["inputs", 2, "data", 0], 1),
    "U+0000 in BYTES": (TITANIC, ["inputs", 2, "data", 0], "a\u0000"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_golden_example_is_refused_by_both(schema, check, broken):
    model, path, value = BROKEN[broken]
    golden = with_change(golden_of(model), path, value)
    assert not schema.is_valid(golden)
    done = check(model, golden)
    assert done.code == 1, done
    assert done.output.startswith("version 1: golden.json: "), done


def test_null_is_a_missing_value_of_a_float_that_is_given(schema):
    schema.validate(with_change(golden_of(HALF), ["inputs", 0, "data", 0], None))


ALLOWED = {
    "as it is": (HALF, ["tolerance"], 1e-3),
    "widest tolerance": (HALF, ["tolerance"], 0.999),
    "nested data": (HALF, ["outputs", 0, "data"], [[-0.33056640625, 1.359375, -2.376953125], [-1.08, 1.578, 0.614]]),
    "remark in a tensor": (HALF, ["inputs", 0, "remark"], "drawn"),
}


@pytest.mark.parametrize("allowed", ALLOWED)
def test_another_golden_example_is_taken_by_both(schema, check, allowed):
    """What is refused above is refused for its change and not for what surrounds it."""
    model, path, value = ALLOWED[allowed]
    golden = with_change(golden_of(model), path, value)
    schema.validate(golden)
    done = check(model, golden)
    assert done.code == 0, done
