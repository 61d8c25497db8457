"""Unmodified clients of KServe, over HTTP/1.1, HTTP/2 and gRPC, kept logged in by rampart-client.

They need pandas 2, so that they run in an environment of their own, as the program `kserve_client/calls.py`.
"""

from __future__ import annotations

import json

import pytest

from infer_request import FOREST
from programs import interpreter, own_packages, run
from running import REPOSITORY
from truth import assert_equal, truth

PROGRAM = REPOSITORY / "tests" / "python" / "kserve_client" / "calls.py"
REFUSED = {"rest": 400, "rest-http2": 400, "grpc": "INVALID_ARGUMENT"}


@pytest.mark.parametrize("protocol", REFUSED)
def test_kserve_infers_past_the_end_of_its_tokens(accounts, platform, protocol):
    person, expected = accounts.person(), truth(FOREST, "2")
    what = {
        "front": platform.front,
        "ca_file": platform.ca_file,
        "user": person.name,
        "password": person.credentials.password,
        "model": FOREST,
        "features": expected.features.tolist(),
    }
    done = run([interpreter("kserve"), PROGRAM, protocol], given=json.dumps(what), environment=own_packages())
    found = json.loads(done.succeeded())

    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    assert found["unknown model ready"] is False
    assert len(found["answers"]) == 2
    for answer in found["answers"]:
        # KServe's client leaves out of what is answered over REST which version it was.
        assert answer["model"] == [FOREST, "2" if protocol == "grpc" else None, "a-request"]
        assert_equal(expected, slice(None), answer["label"], answer["probabilities"])
    status, text = found["refusal"]
    assert status == REFUSED[protocol]
    assert "30" in text
    assert found["asked"] == ["password", "refresh_token", "refresh_token"]
