"""rampart-client's predictions by feature name: tables in, tables out."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pandas as pd
import pytest

from infer_request import WIDTH
from rampart_client import AsyncClient, Client, RampartError, features
from truth import assert_equal, truth

FOREST = "breast-cancer-forest"
NAMES = [f"input_{number}" for number in range(WIDTH)]


@pytest.fixture
def client(accounts):
    with Client(accounts.machine().session()) as client:
        yield client


@pytest.fixture(scope="module")
def frame():
    """The held-out rows under an index that is no count."""
    rows = truth(FOREST, "2").features
    return pd.DataFrame(rows, columns=NAMES, index=[f"patient {2 * row}" for row in range(len(rows))])


# === against the platform ===


@pytest.mark.parametrize("version", [1, "2", "champion", None])
def test_data_frame_is_answered_by_one_with_its_index(client, frame, version):
    answer = client.predict(FOREST, frame, version)
    assert answer.index.equals(frame.index)
    assert list(answer.columns) == ["label", "probabilities_0", "probabilities_1"]
    expected = truth(FOREST, "1" if version == 1 else "2")
    probabilities = answer[["probabilities_0", "probabilities_1"]].to_numpy()
    assert_equal(expected, slice(None), answer["label"].to_numpy(), probabilities)
    assert (answer.attrs["model"], answer.attrs["version"]) == (FOREST, "1" if version == 1 else "2")
    assert len(answer.attrs["sha256"]) == 64


def test_order_of_the_columns_does_not_matter(client, frame):
    assert client.predict(FOREST, frame[NAMES[::-1]]).equals(client.predict(FOREST, frame))


@pytest.mark.parametrize("form", ["records", "columns", "arrays", "a list for each record"])
def test_every_form_has_the_same_answer(client, frame, form):
    data = {
        "records": lambda: frame.to_dict("records"),
        "columns": lambda: frame.to_dict("list"),
        "arrays": lambda: {name: frame[name].to_numpy() for name in NAMES},
        "a list for each record": lambda: [{"input": row} for row in frame.to_numpy()],
    }[form]()
    predictions = client.predict(FOREST, data)
    expected = truth(FOREST, "2")
    labels = [prediction["label"] for prediction in predictions]
    probabilities = [prediction["probabilities"] for prediction in predictions]
    assert_equal(expected, slice(None), labels, np.array(probabilities))
    assert (predictions.model, predictions.version) == (FOREST, "2")


def test_predictions_are_those_of_infer(client, frame):
    by_tensor = client.infer(FOREST, {"input": frame.to_numpy()})
    by_name = client.predict(FOREST, frame)
    assert np.array_equal(by_tensor["label"], by_name["label"])
    both = by_name[["probabilities_0", "probabilities_1"]].to_numpy().astype(np.float32)
    assert np.array_equal(by_tensor["probabilities"], both), "bit for bit"


def test_many_tasks_predict(accounts, frame):
    async def predict():
        async with AsyncClient(accounts.machine().session()) as client:
            return await asyncio.gather(*(client.predict(FOREST, frame.iloc[row : row + 2]) for row in range(8)))

    for row, answer in enumerate(asyncio.run(predict())):
        assert list(answer["label"]) == list(truth(FOREST, "2").labels[row : row + 2])


def test_schema_names_the_features(client):
    schema = client.schema(FOREST, "champion")
    assert schema["additionalProperties"] is False
    assert schema["x-rampart"]["version"] == "2"
    assert schema == client.schema(FOREST)


def test_wrong_features_are_all_named(client, frame):
    wrong = frame.rename(columns={"input_3": "input_three", "input_7": "input_seven"})
    with pytest.raises(RampartError) as refusal:
        client.predict(FOREST, wrong.iloc[:1])
    assert refusal.value.status == 400
    assert {"input_3", "input_7", "input_three", "input_seven"} <= {error.field for error in refusal.value.errors}


def test_missing_value_is_refused_unless_the_call_says_nan(client, frame):
    missing = frame.iloc[:3].copy()
    missing.iloc[1, 4] = np.nan
    with pytest.raises(RampartError) as refusal:
        client.predict(FOREST, missing)
    assert refusal.value.status == 400
    assert [(error.field, error.row) for error in refusal.value.errors] == [("input_4", 1)]
    answer = client.predict(FOREST, missing, missing="nan")
    assert list(answer["label"])[::2] == list(truth(FOREST, "2").labels[:3])[::2]


def test_unknown_model_is_404(client, frame):
    for call in (lambda: client.predict("no-such-model", frame), lambda: client.schema("no-such-model")):
        with pytest.raises(RampartError) as refusal:
            call()
        assert refusal.value.status == 404
        assert "no-such-model" in refusal.value.detail


# === what is sent, without a platform ===


def test_values_of_pandas_and_numpy_become_json():
    frame = pd.DataFrame(
        {
            "float": [1.5, np.nan, 3],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "text": pd.Series(["a", None, "c"], dtype="str"),
            "kind": pd.Categorical(["x", "y", None]),
            "truth": [True, False, True],
            "list": [np.array([1, 2], np.int8), [3.0, np.nan], (5,)],
        }
    )
    assert _sent(frame) == {
        "columns": {
            "float": [1.5, None, 3.0],
            "whole": [1, None, 3],
            "text": ["a", None, "c"],
            "kind": ["x", "y", None],
            "truth": [True, False, True],
            "list": [[1, 2], [3.0, None], [5]],
        }
    }
    assert _sent([{"a": np.float32(0.5), "b": np.int64(2**60), "c": pd.NA, "d": np.bool_(True), "e": pd.NaT}]) == {
        "records": [{"a": 0.5, "b": 2**60, "c": None, "d": True, "e": None}]
    }


def test_float32_goes_by_its_own_value():
    """0.1 as a float32 is another number than 0.1, and what is sent names it exactly."""
    [sent] = _sent({"a": np.array([0.1], np.float32)})["columns"]["a"]
    assert sent == float(np.float32(0.1)) and np.float32(sent) == np.float32(0.1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("text", "list of dicts"),
        ([1], "record 0 is a dict"),
        ([{"a": object()}], "a in row 0 is a object"),
        ([{"a": 1.0}, {"a": float("inf")}], "a in row 1 is infinite"),
        ({"a": "text"}, "the column a is a list"),
        ({"a": {"b": 1}}, "the column a is a list"),
        ({1: [1]}, "features have names"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "there twice: a"),
        (pd.DataFrame([[1, 2]]), "features have names"),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), "a in row 0 is a Timestamp"),
    ],
)
def test_data_of_another_form_is_refused_before_it_is_sent(data, said):
    with pytest.raises((TypeError, ValueError), match=said):
        features.predict(FOREST, None, data, None)


def test_outputs_of_several_values_become_columns():
    predictions = features.Predictions([{"label": 1, "by_class": {"no": 0.25, "yes": 0.75}, "pair": [1, 2]}])
    predictions.model, predictions.version, predictions.sha256 = "m", "1", "0"
    frame = features.as_data_frame(predictions, pd.DataFrame({"a": [1]}, index=[7]))
    assert frame.to_dict("index") == {
        7: {"label": 1, "by_class_no": 0.25, "by_class_yes": 0.75, "pair_0": 1, "pair_1": 2}
    }
    predictions[0]["pair_0"] = 3
    with pytest.raises(ValueError, match="two outputs make the column pair_0"):
        features.as_data_frame(predictions, pd.DataFrame({"a": [1]}))


def _sent(data) -> dict:
    return json.loads(features.predict(FOREST, None, data, None).content)
