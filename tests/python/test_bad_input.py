"""Bad input through the front door: a clear error in the form of its route, never a 5xx, and the next call works.

Clear means: the field's name where the body could be read, the byte offset where it could not.
"""

from __future__ import annotations

import gzip
import json
import random
import re

import grpc as grpc_library
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from truth import assert_equal, truth

FOREST = "breast-cancer-forest"
CALLER = "analyst"
WIDTH = 30
INFER = f"/v2/models/{FOREST}/infer"
OFFSET = r"\b(byte|offset)\D{0,20}\d+"
HEADER_LENGTH = "inference-header-content-length"


def good() -> dict:
    """A request that is answered; every case below changes one thing of it."""
    row = [float(value) for value in truth(FOREST, "2").features[0]]
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, WIDTH], "data": row}]}


def changed(**fields) -> dict:
    request = good()
    request["inputs"][0].update(fields)
    return request


def without(field: str) -> dict:
    request = good()
    del request["inputs"][0][field]
    return request


@pytest.fixture(autouse=True)
def next_call_works(rest, platform):
    """Whatever a test sent, the platform behind it goes on."""
    yield
    response = rest.post(INFER, json=good(), headers=platform.bearer(CALLER))
    assert response.status_code == 200, response.text


def refused(response, status: int) -> str:
    """The message of an error in the protocol's own form."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:300]}"
    assert response.headers["content-type"].split(";")[0] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert body["error"]
    return body["error"]


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
    assert response.status_code in (404, 405)


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


def binary_request(values: bytes, declared: int, shape=(1, WIDTH)) -> tuple[bytes, int]:
    """A body, and the length of its JSON part."""
    described = {
        "name": "input",
        "datatype": "FP32",
        "shape": list(shape),
        "parameters": {"binary_data_size": declared},
    }
    head = json.dumps({"inputs": [described]}).encode()
    return head + values, len(head)


ROW = np.zeros((1, WIDTH), np.float32).tobytes()
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


# === gRPC ===


def grpc_request(**fields) -> service_pb2.ModelInferRequest:
    """A good ModelInferRequest with fields of its only input changed."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, WIDTH], **fields}
    raw = tensor.pop("raw", [ROW])
    return service_pb2.ModelInferRequest(model_name=FOREST, inputs=[tensor], raw_input_contents=raw)


WRONG_RPC = [
    ("unknown name", grpc_request(name="inptu"), "inptu"),
    ("unknown datatype", grpc_request(datatype="FP31"), "datatype"),
    ("other datatype", grpc_request(datatype="INT32"), "datatype"),
    ("too wide", grpc_request(shape=[1, WIDTH + 1]), "shape"),
    ("wrong rank", grpc_request(shape=[WIDTH]), "shape"),
    ("negative", grpc_request(shape=[-1, WIDTH]), "shape"),
    ("product overflows", grpc_request(shape=[2**62, 2**62]), "shape"),
    ("too few bytes", grpc_request(raw=[ROW[:-1]]), "inputs[0]"),
    ("one raw too many", grpc_request(raw=[ROW, ROW]), "raw_input_contents"),
    ("raw and typed", grpc_request(contents={"fp32_contents": [1.0] * WIDTH}), "contents"),
    ("typed of another type", grpc_request(raw=[], contents={"int64_contents": [1] * WIDTH}), "contents"),
    ("too few typed", grpc_request(raw=[], contents={"fp32_contents": [1.0]}), "contents"),
    ("no inputs", service_pb2.ModelInferRequest(model_name=FOREST), "input"),
]


@pytest.fixture
def channel(platform):
    with open(platform.ca_file, "rb") as ca_file:
        credentials = grpc_library.ssl_channel_credentials(ca_file.read())
    with grpc_library.secure_channel(platform.authority, credentials) as channel:
        yield channel


def call(channel, platform, body: bytes, method: str = "inference.GRPCInferenceService/ModelInfer"):
    """Sends bytes as they are, which a generated client would not."""
    send = channel.unary_unary(f"/{method}", request_serializer=bytes, response_deserializer=bytes)
    return send(body, metadata=list(platform.bearer(CALLER).items()), timeout=30)


@pytest.mark.parametrize(("message", "named"), [case[1:] for case in WRONG_RPC], ids=[case[0] for case in WRONG_RPC])
def test_wrong_field_of_an_rpc_is_named(channel, platform, message, named):
    with pytest.raises(grpc_library.RpcError) as refusal:
        call(channel, platform, message.SerializeToString())
    assert refusal.value.code() == grpc_library.StatusCode.INVALID_ARGUMENT
    assert named in refusal.value.details()


@pytest.mark.parametrize(("name", "version"), [("no-such-model", ""), (FOREST, "99"), ("../../etc/passwd", "")])
def test_unknown_model_or_version_is_not_found_by_rpc(grpc, platform, name, version):
    tensor = tritonclient.grpc.InferInput("input", [1, WIDTH], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, WIDTH), np.float32))
    with pytest.raises(InferenceServerException) as refusal:
        grpc.infer(name, [tensor], model_version=version, headers=platform.bearer(CALLER))
    assert refusal.value.status() == "StatusCode.NOT_FOUND"


def test_message_beyond_the_limit_is_resource_exhausted(channel, platform):
    with pytest.raises(grpc_library.RpcError) as refusal:
        call(channel, platform, b"\0" * (17 * 2**20))
    assert refusal.value.code() == grpc_library.StatusCode.RESOURCE_EXHAUSTED
    assert "limit" in refusal.value.details()


@pytest.mark.parametrize("method", ["inference.GRPCInferenceService/Nothing", "grpc.unknown.Service/Call"])
def test_unknown_rpc_is_unimplemented(channel, platform, method):
    with pytest.raises(grpc_library.RpcError) as refusal:
        call(channel, platform, b"", method)
    assert refusal.value.code() == grpc_library.StatusCode.UNIMPLEMENTED


# === anything at all ===

# What a server says when the fault is its own.
SERVER_FAULTS = {
    grpc_library.StatusCode.INTERNAL,
    grpc_library.StatusCode.UNKNOWN,
    grpc_library.StatusCode.DATA_LOSS,
    grpc_library.StatusCode.UNAVAILABLE,
    grpc_library.StatusCode.DEADLINE_EXCEEDED,
}


def mutations(body: bytes, count: int, seed: int):
    """The body with some bytes changed, removed, doubled, or cut off: the same ones on every run."""
    chance = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant) or 1)
            match chance.randrange(4):
                case 0:
                    mutant[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del mutant[at : at + chance.randint(1, 8)]
                case 2:
                    mutant[at:at] = mutant[at : at + chance.randint(1, 8)]
                case 3:
                    mutant[at : at + 1] = chance.choice([b"-", b"0", b"{", b"]", b'"', b"\x00", b"e9", b"\xff"])
        yield bytes(mutant)


def test_mutated_json_never_is_a_server_error(rest, platform):
    for mutant in mutations(json.dumps(good()).encode(), count=300, seed=3):
        response = rest.post(INFER, content=mutant, headers=platform.bearer(CALLER))
        assert response.status_code in (200, 400), f"{response.status_code} {response.text[:200]} for {mutant!r}"
        if response.status_code == 400:
            refused(response, 400)


def test_mutated_binary_request_never_is_a_server_error(rest, platform):
    body, head_length = binary_request(ROW, len(ROW))
    for mutant in mutations(body, count=300, seed=4):
        headers = {**platform.bearer(CALLER), HEADER_LENGTH: str(head_length)}
        response = rest.post(INFER, content=mutant, headers=headers)
        assert response.status_code in (200, 400), f"{response.status_code} {response.text[:200]} for {mutant!r}"


def test_mutated_rpc_never_is_a_server_error(channel, platform):
    for mutant in mutations(grpc_request().SerializeToString(), count=300, seed=5):
        try:
            call(channel, platform, mutant)
        except grpc_library.RpcError as error:
            assert error.code() not in SERVER_FAULTS, f"{error.code()} {error.details()} for {mutant!r}"


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
