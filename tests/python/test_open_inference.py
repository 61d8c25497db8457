"""The client that the Open Inference Protocol's working group generates from its OpenAPI document, kept logged in."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest
from open_inference.openapi.client import AsyncOpenInferenceClient, OpenInferenceClient
from open_inference.openapi.core import ApiError
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput, TensorData

from infer_request import FOREST
from rampart_client.auth import HttpxAuth
from truth import assert_equal, truth


@pytest.fixture
def session(accounts):
    return accounts.person().session()


@pytest.fixture
def client(session):
    with httpx.Client(auth=HttpxAuth(session), verify=session.ssl_context()) as http:
        yield OpenInferenceClient(base_url=session.url, httpx_client=http)


def request(nested: bool, columns: slice = slice(None)) -> InferenceRequest:
    features = truth(FOREST, "2").features[:, columns]
    data = features.tolist() if nested else features.ravel().tolist()
    tensor = RequestInput(name="input", shape=list(features.shape), datatype="FP32", data=TensorData.parse_obj(data))
    return InferenceRequest(id="a-request", inputs=[tensor])


def check(answer) -> None:
    assert (answer.model_name, answer.model_version, answer.id) == (FOREST, "2", "a-request")
    outputs = {output.name: np.reshape(output.data.dict()["__root__"], output.shape) for output in answer.outputs}
    assert_equal(truth(FOREST, "2"), slice(None), outputs["label"], outputs["probabilities"])


def test_open_inference_reads_health_and_metadata(client):
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness(FOREST)
    client.check_model_version_readiness(FOREST, "champion")
    assert client.read_server_metadata().name == "rampart"
    for metadata in (client.read_model_metadata(FOREST), client.read_model_version_metadata(FOREST, "1")):
        assert (metadata.name, sorted(metadata.versions)) == (FOREST, ["1", "2"])
        assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in metadata.inputs] == [
            ("input", "FP32", [-1, 30])
        ]
    with pytest.raises(NotFoundError) as refusal:
        client.check_model_readiness("no-such-model")
    assert "no-such-model" in refusal.value.body["error"]


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_open_inference_infers_past_the_end_of_its_tokens(accounts, client, session, nested):
    check(client.model_infer(FOREST, request=request(nested)))
    session.clock.ahead_s += 700
    check(client.model_version_infer(FOREST, "2", request=request(nested)))
    accounts.revoke_token(session)
    check(client.model_infer(FOREST, request=request(nested)))
    assert session.asked == ["password", "refresh_token", "refresh_token"]


def test_open_inference_of_asyncio_infers_past_the_end_of_its_tokens(session):
    async def ask():
        async with httpx.AsyncClient(auth=HttpxAuth(session), verify=session.ssl_context()) as http:
            client = AsyncOpenInferenceClient(base_url=session.url, httpx_client=http)
            check(await client.model_infer(FOREST, request=request(nested=True)))
            session.clock.ahead_s += 700
            check(await client.model_infer(FOREST, request=request(nested=True)))

    asyncio.run(ask())
    assert session.asked == ["password", "refresh_token"]


def test_open_inference_reads_why_it_is_refused(client):
    with pytest.raises(BadRequestError) as refusal:
        client.model_infer(FOREST, request=request(nested=True, columns=slice(1, None)))
    assert "30" in refusal.value.body["error"]
    wanted = InferenceRequest(inputs=request(nested=False).inputs, outputs=[RequestOutput(name="no-such-output")])
    with pytest.raises(BadRequestError) as refusal:
        client.model_infer(FOREST, request=wanted)
    assert "no-such-output" in refusal.value.body["error"]
    with pytest.raises(ApiError) as refusal:
        client.model_infer("no-such-model", request=request(nested=False))
    assert refusal.value.status_code == 404
    assert "no-such-model" in refusal.value.body["error"]
