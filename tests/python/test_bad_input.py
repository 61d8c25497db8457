"""Bad input through the front door: a clear error in the form of its route, never a 5xx, and the next call works.

Clear means: the field's name where the body could be read, the byte offset where it could not.
"""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest
import tritonclient.http

from infer_request import (
    CALLER,
    FOREST,
    HEADER_LENGTH,
    INFER,
    ROW,
    WIDTH,
    binary_request,
    changed,
    good,
    refused,
    without,
)
from truth import assert_equal, truth

OFFSET = r"\b(byte|offset)\D{0,20}\d+"
pytestmark = pytest.mark.usefixtures("next_call_works")

# === requests that are JSON ===

# what is wrong, the request, what the message must name
WRONG_FIELDS = [
    ("no inputs", {}, "inputs"),
    ("inputs empty", {"inputs": []}, "input"),
    ("inputs is no list", {"inputs": {}}, "inputs"),
    ("input is no object", {"inputs": [1]}, "inputs"),
    ("body is a list", [], "object"),
    ("unknown name", changed(name="inptu"), "inptu"),
    ("no name", without("name"), "name"),
    ("name is a number", changed(name=7), "name"),
    ("no datatype", without("datatype"), "datatype"),
    ("unknown datatype", changed(datatype="FP31"), "datatype"),
    ("other datatype", changed(datatype="INT64", data=[1] * WIDTH), "datatype"),
    ("datatype without JSON form", changed(datatype="FP16"), "FP16"),
    ("no shape", without("shape"), "shape"),
    ("shape is no list", changed(shape=WIDTH), "shape"),
    ("shape too wide", changed(shape=[1, WIDTH + 1], data=[1.0] * (WIDTH + 1)), "shape"),
    ("shape of wrong rank", changed(shape=[WIDTH]), "shape"),
    ("shape with minus one", changed(shape=[-1, WIDTH]), "shape"),
    ("shape with a fraction", changed(shape=[1.5, WIDTH]), "shape"),
    ("shape beyond 64 bits", changed(shape=[2**64, WIDTH]), "shape"),
    ("shape whose product overflows", changed(shape=[2**62, 2**62]), "shape"),
    ("shape whose product is huge", changed(shape=[2**40, WIDTH]), "shape"),
    ("no data", without("data"), "data"),
    ("too few values", changed(data=[1.0] * (WIDTH - 1)), "data"),
    ("too many values", changed(data=[1.0] * (WIDTH + 1)), "data"),
    ("ragged rows", changed(shape=[2, WIDTH], data=[[1.0] * WIDTH, [1.0] * (WIDTH - 1)]), "data"),
    ("data is a string", changed(data="1 2 3"), "data"),
    ("a value is a string", changed(data=["1"] + [1.0] * (WIDTH - 1)), "data"),
    ("a value is null", changed(data=[None] + [1.0] * (WIDTH - 1)), "data"),
    ("a value is an object", changed(data=[{}] + [1.0] * (WIDTH - 1)), "data"),
    ("a value beyond FP32", changed(data=[1e300] + [1.0] * (WIDTH - 1)), "data"),
    ("the input twice", {"inputs": good()["inputs"] * 2}, "input"),
    ("an unknown input besides", {"inputs": [*good()["inputs"], {**good()["inputs"][0], "name": "extra"}]}, "extra"),
    ("unknown output", {**good(), "outputs": [{"name": "certainty"}]}, "certainty"),
    ("outputs is no list", {**good(), "outputs": {}}, "outputs"),
    ("binary data promised, none sent", changed(parameters={"binary_data_size": 120}), "binary_data_size"),
]


@pytest.mark.parametrize(
    ("request_body", "named"), [case[1:] for case in WRONG_FIELDS], ids=[c[0] for c in WRONG_FIELDS]
)
def test_wrong_field_is_named(rest, platform, request_body, named):
    response = rest.post(INFER, json=request_body, headers=platform.bearer(CALLER))
    assert named in refused(response, 400)


NOT_JSON = {
    "empty body": b"",
    "white space": b"  \n ",
    "a word": b"predict",
    "cut off": json.dumps(good()).encode()[:-20],
    "something after the end": json.dumps(good()).encode() + b"}",
    "trailing comma": b'{"inputs": [],}',
    "single quotes": b"{'inputs': []}",
    "NaN": json.dumps(changed(data=[float("nan")] + [1.0] * (WIDTH - 1))).encode(),
    "Infinity": json.dumps(changed(data=[float("-inf")] + [1.0] * (WIDTH - 1))).encode(),
    "not UTF-8": b'{"inputs": [{"name": "\xff\xfe"}]}',
    "a NUL": b'{"inputs": \x00}',
    "lone surrogate": b'{"inputs": [{"name": "\\ud800"}]}',
    "nested too deeply": b'{"ignored": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "hexadecimal number": b'{"inputs": [{"name": "input", "shape": [0x1]}]}',
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_unreadable_body_is_located(rest, platform, what):
    response = rest.post(INFER, content=NOT_JSON[what], headers=platform.bearer(CALLER))
    assert re.search(OFFSET, refused(response, 400))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v2/models/no-such-model/infer", "no-such-model"),
        (f"/v2/models/{FOREST}/versions/99/infer", "99"),
        (f"/v2/models/{FOREST}/versions/challenger/infer", "challenger"),
        (f"/v2/models/{FOREST}/versions/-1/infer", "-1"),
        ("/v2/models/..%2f..%2fetc%2fpasswd/infer", ""),
        ("/v2/models/%00/infer", ""),
        (f"/v2/models/{'x' * 2000}/infer", ""),
    ],
)
def test_unknown_model_or_version_is_not_found(rest, platform, path, named):
    assert named in refused(rest.post(path, json=good(), headers=platform.bearer(CALLER)), 404)


def test_wrong_method_is_refused(rest, platform):
    response = rest.request("DELETE", INFER, headers=platform.bearer(CALLER))
    assert refused(response, 405)
    assert response.headers["allow"] == "POST"


def test_unknown_route_has_the_error_format_of_its_prefix(rest, platform):
    response = rest.get("/api/nothing-here", headers=platform.bearer("admin"))
    assert response.status_code == 404
    assert response.headers["content-type"].split(";")[0] == "application/problem+json"
    assert response.json()["status"] == 404
    refused(rest.get("/v2/nothing-here", headers=platform.bearer("admin")), 404)


def test_bad_json_on_the_api_is_a_problem(rest, platform):
    response = rest.post("/api/admin/users", content=b"{", headers=platform.bearer("admin"))
    assert response.status_code == 400
    assert response.headers["content-type"].split(";")[0] == "application/problem+json"
    assert response.json()["status"] == 400


# === binary tensors ===


WRONG_BINARY = {
    "fewer bytes than declared": binary_request(ROW[:-4], len(ROW)),
    "more bytes than declared": binary_request(ROW + b"\0\0\0\0", len(ROW)),
    "declared size against the shape": binary_request(ROW + ROW, 2 * len(ROW)),
    "size not a multiple of the type's": binary_request(ROW[:-1], len(ROW) - 1),
    "negative size": binary_request(ROW, -1),
    "size beyond 64 bits": binary_request(ROW, 2**64),
    "shape whose product overflows": binary_request(ROW, len(ROW), (2**62, 2**62)),
}


@pytest.mark.parametrize("what", WRONG_BINARY)
def test_wrong_binary_tensor_is_refused(rest, platform, what):
    body, head_length = WRONG_BINARY[what]
    headers = {**platform.bearer(CALLER), HEADER_LENGTH: str(head_length)}
    message = refused(rest.post(INFER, content=body, headers=headers), 400)
    assert re.search("binary|bytes|shape|data", message)


@pytest.mark.parametrize("length", ["-1", "99999999", "x", "", "1e3", str(2**64), "1, 1"])
def test_wrong_length_of_the_json_part_is_refused(rest, platform, length):
    body, _ = binary_request(ROW, len(ROW))
    headers = {**platform.bearer(CALLER), HEADER_LENGTH: length}
    refused(rest.post(INFER, content=body, headers=headers), 400)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"not gzip"), ("gzip", gzip.compress(b"{}")[:-6]), ("br", b"{}"), ("gzip, gzip", b"{}")],
)
def test_wrong_content_encoding_is_refused(rest, platform, encoding, body):
    headers = {**platform.bearer(CALLER), "content-encoding": encoding}
    response = rest.post(INFER, content=body, headers=headers)
    assert response.status_code in (400, 415)
    assert response.json()["error"]


# === unusual, not bad ===


def test_no_rows_have_no_answers(http, platform):
    tensor = tritonclient.http.InferInput("input", [0, WIDTH], "FP32")
    tensor.set_data_from_numpy(np.zeros((0, WIDTH), np.float32))
    answer = http.infer(FOREST, [tensor], headers=platform.bearer(CALLER))
    assert answer.as_numpy("label").shape == (0,)
    assert answer.as_numpy("probabilities").shape == (0, 2)


def test_values_at_the_edge_of_float32_are_taken(http, platform):
    """Extreme is not bad: a binary tensor may carry them, and the forest has an answer."""
    expected = truth(FOREST, "2")
    features = np.array(expected.features[:4])
    features[0, 0], features[1, 1], features[2, 2] = np.finfo(np.float32).max, np.finfo(np.float32).tiny, -0.0
    tensor = tritonclient.http.InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    answer = http.infer(FOREST, [tensor], headers=platform.bearer(CALLER))
    assert answer.as_numpy("probabilities").shape == (4, 2)
    assert_equal(expected, slice(3, 4), answer.as_numpy("label")[3:], answer.as_numpy("probabilities")[3:])
