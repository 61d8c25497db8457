"""Predictions by tensor: the Open Inference Protocol v2 with the binary tensor extension. Needs NumPy."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from .call import Call, model_path, successful, unexpected

Array = npt.NDArray[Any]

HEADER_LENGTH = "inference-header-content-length"
DATATYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}


class Tensors(dict[str, Array]):
    """The outputs by name, and which version of the model answered."""

    model: str
    version: str


def infer(
    model: str, version: str | int | None, inputs: Mapping[str, Array], outputs: Sequence[str] | None
) -> Call[Tensors]:
    """The call: arrays go as they are, in their own type, and nothing is converted on the way."""
    described, parts = [], []
    for name, array in inputs.items():
        datatype, data = _encoded(name, np.asarray(array))
        described.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(np.shape(array)),
                "parameters": {"binary_data_size": len(data)},
            }
        )
        parts.append(data)
    header: dict[str, Any] = {"inputs": described, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        header["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    text = json.dumps(header, separators=(",", ":")).encode()
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    path = f"/v2/models/{model_path(model, version)}/infer"
    return Call("POST", path, _read, b"".join([text, *parts]), headers)


def _read(response: httpx.Response) -> Tensors:
    body = successful(response).content
    try:
        length = int(response.headers.get(HEADER_LENGTH, len(body)))
        header = json.loads(body[:length])
        tensors, place = Tensors(), length
        tensors.model, tensors.version = header["model_name"], header.get("model_version", "")
        for output in header["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                tensors[output["name"]] = _of_json(output)
            else:
                tensors[output["name"]] = _decoded(output["datatype"], output["shape"], body[place : place + size])
                place += size
        if place != len(body):
            raise unexpected(response)
    except (KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise unexpected(response) from None
    return tensors


def _encoded(name: str, array: Array) -> tuple[str, bytes]:
    if array.dtype.kind in "OSU":
        return "BYTES", b"".join(_element(name, value) for value in array.ravel())
    little_endian = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
    if little_endian not in NAMES:
        raise TypeError(f"{name}: no tensor has the type {array.dtype}")
    return NAMES[little_endian], np.ascontiguousarray(array, little_endian).tobytes()


def _element(name: str, value: Any) -> bytes:
    if not isinstance(value, str | bytes):
        raise TypeError(f"{name}: an array of objects has texts or bytes, not {type(value).__name__}")
    text = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(text)) + text


def _decoded(datatype: str, shape: list[int], data: bytes) -> Array:
    if datatype == "BYTES":
        return _objects(_elements(data), shape)
    # A copy: what lies in the body cannot be written to.
    array: Array = np.frombuffer(data, DATATYPES[datatype]).reshape(shape).copy()
    return array


def _elements(data: bytes) -> list[bytes]:
    elements, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place)
        element = data[place + 4 : place + 4 + length]
        if len(element) != length:
            raise ValueError("an element is cut off")
        elements.append(element)
        place += 4 + length
    return elements


def _objects(elements: list[Any], shape: list[int]) -> Array:
    if len(elements) != math.prod(shape):
        raise ValueError("as many elements as the shape says")
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _of_json(output: Mapping[str, Any]) -> Array:
    if output["datatype"] == "BYTES":
        texts = np.asarray(output["data"], dtype=object).ravel().tolist()
        return _objects([text.encode() for text in texts], output["shape"])
    array: Array = np.asarray(output["data"], DATATYPES[output["datatype"]]).reshape(output["shape"])
    return array
