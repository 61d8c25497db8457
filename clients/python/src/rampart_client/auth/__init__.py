"""What keeps clients of other makers logged in, by a `Session`.

Each is imported when it is asked for: only its own library has to be there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .httpx_auth import HttpxAuth

if TYPE_CHECKING:
    from .grpc_auth import grpc_credentials
    from .requests_auth import RequestsAuth
    from .triton import TritonAioAuth, TritonAuth

__all__ = ["HttpxAuth", "RequestsAuth", "TritonAioAuth", "TritonAuth", "grpc_credentials"]

_MODULES = {
    "RequestsAuth": "requests_auth",
    "TritonAioAuth": "triton",
    "TritonAuth": "triton",
    "grpc_credentials": "grpc_auth",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
