"""A request that is answered, in each form of the protocol, for tests that change one thing of it; and a refusal."""

from __future__ import annotations

import json

import numpy as np
from tritonclient.grpc import service_pb2

from truth import truth

FOREST = "breast-cancer-forest"
CALLER = "analyst"
WIDTH = 30
INFER = f"/v2/models/{FOREST}/infer"
HEADER_LENGTH = "inference-header-content-length"
ROW = np.zeros((1, WIDTH), np.float32).tobytes()


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


def grpc_request(**fields) -> service_pb2.ModelInferRequest:
    """A good ModelInferRequest with fields of its only input changed."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, WIDTH], **fields}
    raw = tensor.pop("raw", [ROW])
    return service_pb2.ModelInferRequest(model_name=FOREST, inputs=[tensor], raw_input_contents=raw)


def call(channel, platform, body: bytes, method: str = "inference.GRPCInferenceService/ModelInfer"):
    """Sends bytes as they are, which a generated client would not."""
    send = channel.unary_unary(f"/{method}", request_serializer=bytes, response_deserializer=bytes)
    return send(body, metadata=list(platform.bearer(CALLER).items()), timeout=30)


def refused(response, status: int) -> str:
    """The message of an error in the protocol's own form."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:300]}"
    assert response.headers["content-type"].split(";")[0] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert body["error"]
    return body["error"]
