"""Bad gRPC messages through the front door: the right status, the field's name, and the next call works."""

from __future__ import annotations

import grpc as grpc_library
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from infer_request import CALLER, FOREST, ROW, WIDTH, call, grpc_request

pytestmark = pytest.mark.usefixtures("next_call_works")

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
