"""Calls of the platform as values: what is sent, and how the answer is read. `Client` and `AsyncClient` send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from .error import RampartError

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. `read` gets a response of whatever status."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # Whether an answer that may be different in a moment is waited for.
    is_patient: bool = True


@dataclass(frozen=True)
class Model:
    """A row of the repository index: a version of a model, and whether it serves."""

    name: str
    version: str
    state: str
    reason: str

    @property
    def is_ready(self) -> bool:
        """Whether it answers predictions."""
        return self.state == "READY"


def models() -> Call[list[Model]]:
    """Every version of every model that the platform has."""

    def read(response: httpx.Response) -> list[Model]:
        rows = json_of(response)
        if not isinstance(rows, list):
            raise unexpected(response)
        return [_model(row) for row in rows if isinstance(row, dict)]

    return Call("POST", "/v2/repository/index", read, b"{}", {"content-type": "application/json"})


def ready(model: str | None, version: str | int | None) -> Call[bool]:
    """Whether the platform, or a version of a model, answers predictions now."""

    def read(response: httpx.Response) -> bool:
        # A model that is not there is as little ready as one that is still loading.
        if response.status_code in (404, 503):
            return False
        return json_of(response).get("ready") is True

    if model is None:
        if version is not None:
            raise ValueError("a version of which model?")
        path = "/v2/health/ready"
    else:
        path = f"/v2/models/{model_path(model, version)}/ready"
    return Call("GET", path, read, is_patient=False)


def schema(model: str, version: str | int | None) -> Call[dict[str, Any]]:
    """The JSON Schema of one record of a model."""

    def read(response: httpx.Response) -> dict[str, Any]:
        found = json_of(response)
        if not isinstance(found, dict):
            raise unexpected(response)
        return found

    return Call("GET", f"/api/models/{model_path(model, version)}/schema", read)


def model_path(model: str, version: str | int | None) -> str:
    """A model, or a version of it by number or alias, as a part of a path."""
    name = quote(model, safe="")
    return name if version is None else f"{name}/versions/{quote(str(version), safe='')}"


def successful(response: httpx.Response) -> httpx.Response:
    """The response, unless it is a refusal."""
    if not response.is_success:
        raise RampartError.of_response(response)
    return response


def json_of(response: httpx.Response) -> Any:
    """The body of a success."""
    try:
        return successful(response).json()
    except ValueError:
        raise unexpected(response) from None


def unexpected(response: httpx.Response) -> RampartError:
    """A success with a body that is none: something else than the platform answers there."""
    return RampartError(response.status_code, f"an answer of another form than expected from {response.url}")


def _model(row: Mapping[str, Any]) -> Model:
    return Model(*(str(row.get(name, "")) for name in ("name", "version", "state", "reason")))
