"""Predictions by feature name: tables in, tables out. pandas is used where the caller does, and never imported here."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import httpx

from .call import Call, json_of, model_path, unexpected

if TYPE_CHECKING:
    import pandas

Records: TypeAlias = Sequence[Mapping[str, Any]]
Columns: TypeAlias = Mapping[str, Any]

# pandas' own words for a missing value.
MISSING_TYPES = frozenset({"NAType", "NaTType"})


class Predictions(list[dict[str, Any]]):
    """One object for each record, in their order, and which version of the model answered."""

    model: str
    version: str
    sha256: str


def is_data_frame(data: object) -> bool:
    """Whether it is a pandas DataFrame, without importing pandas for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def predict(
    model: str, version: str | int | None, data: Records | Columns | pandas.DataFrame, missing: Literal["nan"] | None
) -> Call[Predictions]:
    """The call for data of any of the forms."""
    if missing not in (None, "nan"):
        raise ValueError('missing is None or "nan"')
    body = _body(data)
    if missing is not None:
        body["missing"] = missing

    def read(response: httpx.Response) -> Predictions:
        answer = json_of(response)
        listed = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            raise unexpected(response)
        predictions = Predictions(listed)
        predictions.model, predictions.version, predictions.sha256 = (
            str(answer.get(name, "")) for name in ("model", "version", "sha256")
        )
        return predictions

    content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    path = f"/api/models/{model_path(model, version)}/predict"
    return Call("POST", path, read, content, {"content-type": "application/json"})


def as_data_frame(predictions: Predictions, asked: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each row that was asked about, under its index; `attrs` says which version answered.

    An output of several values becomes as many columns: `NAME_CLASS`, or `NAME_0`, `NAME_1`, …
    """
    rows = [_flat(prediction) for prediction in predictions]
    frame: pandas.DataFrame = type(asked)(rows, index=asked.index)
    frame.attrs.update(model=predictions.model, version=predictions.version, sha256=predictions.sha256)
    return frame


def _flat(prediction: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in prediction.items():
        if isinstance(value, dict):
            parts = {f"{name}_{key}": part for key, part in value.items()}
        elif isinstance(value, list):
            parts = {f"{name}_{index}": part for index, part in enumerate(value)}
        else:
            parts = {name: value}
        if taken := flat.keys() & parts.keys():
            raise ValueError(f"two outputs make the column {sorted(taken)[0]}: ask with records instead of a DataFrame")
        flat.update(parts)
    return flat


def _body(data: Any) -> dict[str, Any]:
    if is_data_frame(data):
        return {"columns": _frame_columns(data)}
    if isinstance(data, Mapping):
        return {"columns": {_name(name): _column(name, values) for name, values in data.items()}}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return {"records": [_record(row, record) for row, record in enumerate(data)]}
    raise TypeError(f"a DataFrame, a list of dicts or a dict of columns, not {type(data).__name__}")


def _frame_columns(frame: pandas.DataFrame) -> dict[str, list[Any]]:
    if not frame.columns.is_unique:
        twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
        raise ValueError(f"columns are there twice: {', '.join(twice)}")
    return {_name(name): _column(name, frame[name]) for name in frame.columns}


def _column(name: object, values: Any) -> list[Any]:
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence):
        raise TypeError(f"the column {name} is a list of values, not {type(values).__name__}")
    return [_plain(value, name, row) for row, value in enumerate(listed)]


def _record(row: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise TypeError(f"record {row} is a dict, not {type(record).__name__}")
    return {_name(name): _plain(value, name, row) for name, value in record.items()}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"features have names, and {name!r} is a {type(name).__name__}")
    return name


def _plain(value: Any, name: object, row: int) -> Any:
    """A value as JSON has it. NaN, pandas' NA and None are all a missing value."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{name} in row {row} is infinite, which JSON has no word for: use infer")
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple):
        return [_plain(part, name, row) for part in value]
    if hasattr(value, "tolist"):  # an array, or a scalar of NumPy's
        return _plain(value.tolist(), name, row)
    if type(value).__name__ in MISSING_TYPES:
        return None
    raise TypeError(f"{name} in row {row} is a {type(value).__name__}: a feature is a number, a text or a truth value")
