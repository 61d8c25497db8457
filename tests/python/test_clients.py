"""Unmodified tritonclient, HTTP and gRPC, over TLS with a bearer token: lists, inspects and infers."""

from __future__ import annotations

import asyncio
import queue

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from recipes import RECIPES
from truth import assert_equal, truth

NAMES = {recipe.name for recipe in RECIPES}
FOREST = "breast-cancer-forest"
READER, CALLER = "viewer", "analyst"


# === without a token ===


def test_live_and_ready_need_no_token(http):
    assert http.is_server_live()
    assert http.is_server_ready()


def test_live_and_ready_by_rpc(grpc, platform):
    assert grpc.is_server_live()
    assert grpc.is_server_ready()


# === list and inspect ===


def test_http_lists_every_model_and_version(http, platform):
    index = http.get_model_repository_index(headers=platform.bearer(READER))
    listed = {(entry["name"], entry["version"]): entry["state"] for entry in index}
    assert listed == {(recipe.name, version): "READY" for recipe in RECIPES for version in recipe.versions}


def test_grpc_lists_every_model_and_version(grpc, platform):
    index = grpc.get_model_repository_index(headers=platform.bearer(READER))
    listed = {(entry.name, entry.version): entry.state for entry in index.models}
    assert listed == {(recipe.name, version): "READY" for recipe in RECIPES for version in recipe.versions}


def test_server_metadata_names_the_extensions(http, grpc, platform):
    by_http = http.get_server_metadata(headers=platform.bearer(READER))
    by_grpc = grpc.get_server_metadata(headers=platform.bearer(READER))
    assert by_http["name"] == by_grpc.name == "rampart"
    assert by_http["version"] == by_grpc.version
    assert set(by_http["extensions"]) == set(by_grpc.extensions) >= {"binary_tensor_data", "model_repository"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_model_metadata_describes_the_tensors(http, grpc, platform, recipe):
    by_http = http.get_model_metadata(recipe.name, headers=platform.bearer(READER))
    by_grpc = grpc.get_model_metadata(recipe.name, headers=platform.bearer(READER), as_json=True)
    width = truth(recipe.name, "1").features.shape[1]
    classes = truth(recipe.name, "1").probabilities.shape[1]

    assert by_http["name"] == by_grpc["name"] == recipe.name
    assert sorted(by_http["versions"]) == sorted(by_grpc["versions"]) == sorted(recipe.versions)
    assert by_http["platform"] == by_grpc["platform"] == "onnx_onnxv1"
    assert by_http["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, width]}]
    assert by_http["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
    ]
    for from_http, from_grpc in zip(
        by_http["inputs"] + by_http["outputs"], by_grpc["inputs"] + by_grpc["outputs"], strict=True
    ):
        # protobuf's JSON spells 64-bit integers as strings
        assert from_http == {**from_grpc, "shape": [int(size) for size in from_grpc["shape"]]}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("version", ["1", "2", "champion", ""])
def test_versions_and_aliases_are_ready(request, platform, protocol, version):
    client = request.getfixturevalue(protocol)
    assert client.is_model_ready(FOREST, version, headers=platform.bearer(READER))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_unknown_model_is_not_ready(request, platform, protocol):
    client = request.getfixturevalue(protocol)
    assert not client.is_model_ready("no-such-model", headers=platform.bearer(READER))


@pytest.mark.parametrize(("protocol", "library"), [("http", tritonclient.http), ("grpc", tritonclient.grpc)])
def test_statistics_are_those_of_all_replicas(request, platform, protocol, library):
    client, expected = request.getfixturevalue(protocol), truth(FOREST, "1")

    def counts():
        options = {"as_json": True} if protocol == "grpc" else {}
        answer = client.get_inference_statistics(FOREST, "1", headers=platform.bearer(READER), **options)
        [model] = answer["model_stats"]
        return int(model.get("inference_count", 0)), int(model["inference_stats"]["success"].get("count", 0)), answer

    rows, calls, _ = counts()
    for _ in range(12):
        client.infer(
            FOREST, [_input(library, expected.features[:3])], model_version="1", headers=platform.bearer(CALLER)
        )
    rows_now, calls_now, answer = counts()
    assert (rows_now - rows, calls_now - calls) == (36, 12)
    if protocol == "http":
        replicas = {replica["name"]: replica["model_stats"][0]["inference_count"] for replica in answer["replicas"]}
        assert sorted(replicas) == ["serving-1", "serving-2", "serving-3"]
        assert sum(replicas.values()) == rows_now


# === infer ===


def test_http_infers_with_json_tensors(http, platform):
    expected = truth(FOREST, "2")
    tensor = tritonclient.http.InferInput("input", list(expected.features.shape), "FP32")
    tensor.set_data_from_numpy(expected.features, binary_data=False)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=False) for name in ("probabilities", "label")]
    answer = http.infer(FOREST, [tensor], outputs=wanted, request_id="a-request", headers=platform.bearer(CALLER))
    assert_equal(expected, slice(None), answer.as_numpy("label"), answer.as_numpy("probabilities"))
    described = answer.get_response()
    assert (described["model_name"], described["model_version"], described["id"]) == (FOREST, "2", "a-request")


@pytest.mark.parametrize(("protocol", "library"), [("http", tritonclient.http), ("grpc", tritonclient.grpc)])
def test_only_the_requested_output_is_returned(request, platform, protocol, library):
    client, expected = request.getfixturevalue(protocol), truth(FOREST, "1")
    tensor = _input(library, expected.features)
    answer = client.infer(
        FOREST,
        [tensor],
        model_version="1",
        outputs=[library.InferRequestedOutput("label")],
        headers=platform.bearer(CALLER),
    )
    assert np.array_equal(answer.as_numpy("label"), expected.labels)
    assert answer.as_numpy("probabilities") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_http_takes_compressed_requests(http, platform, algorithm):
    expected = truth(FOREST, "2")
    answer = http.infer(
        FOREST,
        [_input(tritonclient.http, expected.features)],
        request_compression_algorithm=algorithm,
        headers=platform.bearer(CALLER),
    )
    assert_equal(expected, slice(None), answer.as_numpy("label"), answer.as_numpy("probabilities"))


def test_one_connection_serves_many_calls_of_each_kind(http, platform):
    """Keep-alive with and without bodies and binary parts: nothing of one exchange may reach the next."""
    expected = truth(FOREST, "2")
    for row in range(20):
        rows = slice(row, row + 1 + row % 3)
        answer = http.infer(
            FOREST, [_input(tritonclient.http, expected.features[rows])], headers=platform.bearer(CALLER)
        )
        assert_equal(expected, rows, answer.as_numpy("label"), answer.as_numpy("probabilities"))
        assert {entry["name"] for entry in http.get_model_repository_index(headers=platform.bearer(READER))} == NAMES


def test_grpc_calls_in_flight_together_each_get_their_own_rows(grpc, platform):
    expected, headers = truth(FOREST, "2"), platform.bearer(CALLER)
    answers: queue.Queue = queue.Queue()
    slices = [slice(row, row + 1 + row % 5) for row in range(100)]
    for rows in slices:
        tensor = _input(tritonclient.grpc, expected.features[rows])
        # The rows are bound now: the callback runs when the loop has moved on.
        grpc.async_infer(
            FOREST, [tensor], lambda result, error, rows=rows: answers.put((rows, result, error)), headers=headers
        )
    for _ in slices:
        rows, result, error = answers.get(timeout=30)
        assert error is None
        assert_equal(expected, rows, result.as_numpy("label"), result.as_numpy("probabilities"))


@pytest.mark.parametrize(("protocol", "library"), [("http", tritonclient.http), ("grpc", tritonclient.grpc)])
def test_asyncio_lists_and_infers(platform, protocol, library):
    trust = {
        "http": {"ssl": True, "ssl_context": platform.ssl_context()},
        "grpc": {"ssl": True, "root_certificates": platform.ca_file},
    }[protocol]
    expected = truth(FOREST, "2")
    slices = [slice(row, row + 1 + row % 5) for row in range(20)]

    async def ask():
        async with library.aio.InferenceServerClient(platform.authority, **trust) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready(FOREST, headers=platform.bearer(READER))
            index = await client.get_model_repository_index(headers=platform.bearer(READER))
            assert {
                entry["name"] if protocol == "http" else entry.name for entry in getattr(index, "models", index)
            } == NAMES
            tensors = [[_input(library, expected.features[rows])] for rows in slices]
            return await asyncio.gather(
                *(client.infer(FOREST, tensor, headers=platform.bearer(CALLER)) for tensor in tensors)
            )

    for rows, answer in zip(slices, asyncio.run(asyncio.wait_for(ask(), 60)), strict=True):
        assert_equal(expected, rows, answer.as_numpy("label"), answer.as_numpy("probabilities"))


def _input(library, features: np.ndarray):
    tensor = library.InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    return tensor
