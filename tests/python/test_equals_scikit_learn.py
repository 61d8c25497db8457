"""Every example model, through the front door, answers as scikit-learn on its whole held-out split.

Once in one request and once row by row, over each form of the protocol.
"""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from recipes import RECIPES
from truth import EVERY_VERSION, assert_equal, truth

CALLER = "analyst"


def rest_json(request, name, version, features):
    """Plain JSON as written by hand: nested rows, no client library."""
    client, platform = request.getfixturevalue("rest"), request.getfixturevalue("platform")
    body = {
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": list(features.shape), "data": features.tolist()},
        ]
    }
    path = f"/v2/models/{name}/versions/{version}/infer" if version else f"/v2/models/{name}/infer"
    response = client.post(path, json=body, headers=platform.bearer(CALLER))
    assert response.status_code == 200, response.text
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    label, probabilities = outputs["label"], outputs["probabilities"]
    assert (label["datatype"], probabilities["datatype"]) == ("INT64", "FP32")
    return np.reshape(label["data"], label["shape"]), np.reshape(probabilities["data"], probabilities["shape"])


def rest_binary(request, name, version, features):
    """tritonclient's own default: binary tensors in and out."""
    return _triton(request, "http", tritonclient.http, name, version, features)


def grpc(request, name, version, features):
    return _triton(request, "grpc", tritonclient.grpc, name, version, features)


def _triton(request, fixture, library, name, version, features):
    client, platform = request.getfixturevalue(fixture), request.getfixturevalue("platform")
    tensor = library.InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    answer = client.infer(name, [tensor], model_version=version, headers=platform.bearer(CALLER))
    return answer.as_numpy("label"), answer.as_numpy("probabilities")


FORMS = [rest_json, rest_binary, grpc]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "version"), EVERY_VERSION)
def test_whole_held_out_split_equals_scikit_learn(request, form, name, version):
    expected = truth(name, version)
    labels, probabilities = form(request, name, version, expected.features)
    assert_equal(expected, slice(None), labels, probabilities)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "version"), EVERY_VERSION)
def test_every_held_out_row_alone_equals_scikit_learn(request, form, name, version):
    expected = truth(name, version)
    for row in range(len(expected.labels)):
        rows = slice(row, row + 1)
        labels, probabilities = form(request, name, version, expected.features[rows])
        assert_equal(expected, rows, labels, probabilities)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_alias_answers_as_the_version_it_points_to(request, form, recipe):
    expected = truth(recipe.name, recipe.champion)
    labels, probabilities = form(request, recipe.name, "champion", expected.features)
    assert_equal(expected, slice(None), labels, probabilities)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_no_version_means_the_newest(request, form, recipe):
    expected = truth(recipe.name, max(recipe.versions, key=int))
    labels, probabilities = form(request, recipe.name, "", expected.features)
    assert_equal(expected, slice(None), labels, probabilities)
