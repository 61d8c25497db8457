"""`mlserver infer`, the batch client of MLServer, which sends a file of requests by tritonclient's asyncio over HTTP.

It has no plugins: past the end of a token each run is given the session's present one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from infer_request import FOREST
from programs import Done, interpreter, run
from truth import assert_equal, truth

ROWS = 24


@pytest.fixture
def requests_file(tmp_path):
    """One request of one row a line."""
    path = tmp_path / "requests.jsonl"
    with path.open("w") as file:
        for number, row in enumerate(truth(FOREST, "2").features[:ROWS].tolist()):
            tensor = {"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row}
            file.write(json.dumps({"id": f"row-{number}", "inputs": [tensor]}) + "\n")
    return path


def infer(platform, token: str, requests_file: Path, *options: object) -> tuple[Done, list[dict]]:
    answers = requests_file.with_suffix(".answers")
    command = [
        interpreter("mlserver").with_name("mlserver"), "infer", "--use-ssl", "--url", platform.authority,
        "--model-name", FOREST, "--input-data-path", requests_file, "--output-data-path", answers,
        "--request-headers", f"Authorization: Bearer {token}", *options,
    ]  # fmt: skip
    # The one way to name a CA to it.
    done = run(command, environment={"SSL_CERT_FILE": platform.ca_file})
    done.succeeded()
    return done, [json.loads(line) for line in answers.read_text().splitlines()]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("form", ["json", "binary"])
def test_mlserver_infers_each_line_of_a_file(platform, requests_file, batch, form):
    options = ["--batch-size", batch, *(["--binary-data"] if form == "binary" else [])]
    done, answers = infer(platform, platform.token("analyst"), requests_file, *options)
    assert len(answers) == ROWS, done.errors
    answers.sort(key=lambda answer: answer["parameters"]["batch_index"])
    assert [answer["id"] for answer in answers] == [f"row-{number}" for number in range(ROWS)]
    assert {(answer["model_name"], answer["model_version"]) for answer in answers} == {(FOREST, "2")}
    for number, answer in enumerate(answers):
        outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in answer["outputs"]}
        assert_equal(truth(FOREST, "2"), slice(number, number + 1), outputs["label"].ravel(), outputs["probabilities"])


def test_mlserver_is_told_of_a_refused_token_and_goes_on_with_the_next(accounts, platform, requests_file):
    session = accounts.person().session()
    revoked = accounts.revoke_token(session)
    _, answers = infer(platform, revoked, requests_file, "--retries", 1)
    assert len(answers) == ROWS
    assert all("the bearer token is not valid" in answer["error"]["msg"] for answer in answers)
    session.renew(revoked)
    _, answers = infer(platform, session.token(), requests_file)
    assert all("outputs" in answer for answer in answers)
