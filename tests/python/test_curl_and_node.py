"""curl over HTTP/1.1 and HTTP/2, and fetch of Node: they know nothing of the protocol but what their users write."""

from __future__ import annotations

import json

import numpy as np
import pytest

from infer_request import FOREST, HEADER_LENGTH, INFER, WIDTH
from programs import Done, program, run
from recipes import RECIPES
from running import REPOSITORY
from truth import assert_equal, truth

FETCH = REPOSITORY / "tests" / "python" / "fetch_calls.mjs"
HTTP_ERROR = 22
MIB = 1 << 20


@pytest.fixture(params=["1.1", "2"], ids=["HTTP/1.1", "HTTP/2"])
def curl(request, platform):
    """Calls the platform, and checks by which version of HTTP it was answered."""

    def call(path: str, *options: object, token: str | None = None, given: str | bytes = "") -> Done:
        bearer = [] if "--user" in options else ["--oauth2-bearer", token or platform.token("analyst")]
        command = [
            program("curl"), "--silent", "--show-error", "--fail-with-body", "--max-time", 60, "--cacert",
            platform.ca_file, f"--http{request.param}", *bearer, "--write-out", "%{stderr}HTTP/%{http_version}",
            *options, platform.front + path,
        ]  # fmt: skip
        done = run(command, given=given)
        assert f"HTTP/{request.param}" in done.errors, done
        return done

    return call


def tensor(row_count: int) -> dict:
    features = np.resize(truth(FOREST, "2").features, (row_count, WIDTH))
    return {"name": "input", "datatype": "FP32", "shape": list(features.shape), "data": features.tolist()}


def check(answer: str | dict) -> None:
    described = json.loads(answer) if isinstance(answer, str) else answer
    assert (described["model_name"], described["model_version"]) == (FOREST, "2")
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in described["outputs"]}
    assert_equal(truth(FOREST, "2"), slice(None), outputs["label"], outputs["probabilities"])


# === curl ===


@pytest.mark.parametrize("body", ["--json", "--data-binary", "--upload-file"])
def test_curl_infers(curl, body):
    """--upload-file of a pipe is sent in chunks over HTTP/1.1: its length is not known."""
    given = json.dumps({"inputs": [tensor(len(truth(FOREST, "2").features))]})
    source = {"--json": ["@-"], "--data-binary": ["@-"], "--upload-file": ["-", "--request", "POST"]}[body]
    check(curl(INFER, body, *source, "--compressed", given=given).succeeded())


def test_curl_sends_a_body_that_it_first_asks_leave_for(curl):
    """Over 1 MiB curl sends `Expect: 100-continue` and waits for the answer before the body."""
    given = json.dumps({"inputs": [tensor(6000)]})
    assert len(given) > 2 * MIB
    answer = json.loads(curl(INFER, "--json", "@-", "--max-time", 30, given=given).succeeded())
    assert {output["name"]: output["shape"] for output in answer["outputs"]} == {
        "label": [6000],
        "probabilities": [6000, 2],
    }


def test_curl_sends_and_receives_binary_tensors(curl, tmp_path):
    features = truth(FOREST, "2").features
    described = {key: value for key, value in tensor(len(features)).items() if key != "data"}
    described["parameters"] = {"binary_data_size": features.nbytes}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [described], "outputs": [wanted]}).encode()
    answer, headers = tmp_path / "answer", tmp_path / "headers"
    curl(
        INFER,
        *("--data-binary", "@-", "--header", f"{HEADER_LENGTH}: {len(head)}"),
        *("--header", "content-type: application/octet-stream", "--output", answer, "--dump-header", headers),
        given=head + features.tobytes(),
    ).succeeded()
    lengths = dict(line.lower().split(": ", 1) for line in headers.read_text().splitlines() if ": " in line)
    values = answer.read_bytes()[int(lengths[HEADER_LENGTH]) :]
    found = np.frombuffer(values, np.float32).reshape(-1, 2)
    assert np.abs(found - truth(FOREST, "2").probabilities).max() <= 1e-5


def test_curl_of_several_addresses_uses_one_connection(curl, platform):
    """The second and third call find what the first has left behind."""
    done = curl("/v2/models/digits-mlp", platform.front + INFER[: -len("/infer")], platform.front + "/v2", "--verbose")
    assert done.output.count('"name"') >= 3, done
    assert done.errors.count("Re-using existing connection") == 2, done.errors


def test_curl_is_told_why_it_is_refused_and_goes_on_with_the_next_token(accounts, curl):
    session = accounts.person().session()
    revoked = accounts.revoke_token(session)
    given = json.dumps({"inputs": [tensor(len(truth(FOREST, "2").features))]})
    # Without a body: curl 7.88 may drop an HTTP/2 answer that comes before its upload has ended.
    refused = curl("/v2", token=revoked)
    assert refused.code == HTTP_ERROR
    assert "token" in json.loads(refused.output)["error"]
    session.renew(revoked)
    check(curl(INFER, "--json", "@-", token=session.token(), given=given).succeeded())


def test_curl_signs_a_machine_in(accounts, curl, platform):
    machine = accounts.machine()
    secret = f"{machine.name}:{machine.credentials.client_secret}"
    done = curl("/api/auth/token", "--user", secret, "--data", "grant_type=client_credentials")
    token = json.loads(done.succeeded())["access_token"]
    who = json.loads(curl("/api/auth/me", token=token).succeeded())
    assert (who["name"], who["kind"]) == (machine.name, "machine")


# === Node ===


def test_fetch_of_node_infers_and_signs_in_again(accounts, platform):
    machine, expected = accounts.machine(), truth(FOREST, "2")
    environment = {
        "FRONT": platform.front,
        "MODEL": FOREST,
        "CLIENT_ID": machine.name,
        "CLIENT_SECRET": machine.credentials.client_secret,
        "NODE_EXTRA_CA_CERTS": platform.ca_file,
    }
    done = run([program("node"), FETCH], given=json.dumps(expected.features.tolist()), environment=environment)
    found = json.loads(done.succeeded())

    assert {model["name"] for model in found["models"]} == {recipe.name for recipe in RECIPES}
    check(found["json"])
    check(found["again"])
    binary = np.reshape(found["binary"]["data"], found["binary"]["shape"])
    assert np.abs(binary - expected.probabilities).max() <= 1e-5
    assert found["refusal"]["status"] == 400
    assert "30" in found["refusal"]["error"]
    assert found["logins"] == 2
