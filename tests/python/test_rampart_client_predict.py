"""rampart-client's predictions by feature name: tables in, tables out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from rampart_client import features

FOREST = "breast-cancer-forest"


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
