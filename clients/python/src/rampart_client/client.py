"""Clients of the platform: `Client`, and `AsyncClient` with the same methods to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from . import call as calls
from . import features
from .auth.httpx_auth import HttpxAuth
from .call import Call, Model
from .error import RampartError
from .features import Columns, Predictions, Records
from .patience import Patience
from .session import Session

if TYPE_CHECKING:
    import pandas

    from .tensors import Array, Tensors

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0


class _Settings:
    """What both clients are made with."""

    def __init__(self, session: Session | None, timeout_s: float, retry_for_s: float) -> None:
        self.session = session or Session()
        self.timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        self.retry_for_s = retry_for_s

    def patience(self, call: Call[Any]) -> Patience:
        """For the tries of one call together."""
        return Patience(self.retry_for_s if call.is_patient else 0.0, time.monotonic)


class Client:
    """Predictions and models. Without a session, one from the environment.

    Any number of threads may use it. A call that was refused for now (429, 503) or met a lost connection is sent again,
    for `retry_for_s` at most and not before `Retry-After`; `timeout_s` is for one try.
    """

    def __init__(self, session: Session | None = None, *, timeout_s: float = 30.0, retry_for_s: float = 30.0) -> None:
        self._settings = _Settings(session, timeout_s, retry_for_s)
        self.session = self._settings.session
        self._http = httpx.Client(
            base_url=self.session.url,
            verify=self.session.ssl_context(),
            auth=HttpxAuth(self.session),
            timeout=self._settings.timeout,
        )

    def __repr__(self) -> str:
        return f"Client({self.session!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections. The session goes on."""
        self._http.close()

    @overload
    def predict(
        self,
        model: str,
        data: Records | Columns,
        version: str | int | None = None,
        *,
        missing: Literal["nan"] | None = None,
    ) -> Predictions: ...

    @overload
    def predict(
        self,
        model: str,
        data: pandas.DataFrame,
        version: str | int | None = None,
        *,
        missing: Literal["nan"] | None = None,
    ) -> pandas.DataFrame: ...

    def predict(
        self, model: str, data: Any, version: str | int | None = None, *, missing: Literal["nan"] | None = None
    ) -> pandas.DataFrame | Predictions:
        """Predictions by feature name, for a DataFrame, a list of dicts or a dict of columns.

        A DataFrame is answered by one, with the same index. `version` is a number or an alias. With `missing="nan"`
        missing values of float features are NaN to the model; without it they are refused.
        """
        predictions = self._send(features.predict(model, version, data, missing))
        return features.as_data_frame(predictions, data) if features.is_data_frame(data) else predictions

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str | int | None = None,
        *,
        outputs: Sequence[str] | None = None,
    ) -> Tensors:
        """Outputs by name for arrays by name, in binary form. Without `outputs` all of them."""
        from . import tensors  # NumPy is needed for this alone

        return self._send(tensors.infer(model, version, inputs, outputs))

    def models(self) -> list[Model]:
        """Every version of every model, and whether it serves."""
        return self._send(calls.models())

    def ready(self, model: str | None = None, version: str | int | None = None) -> bool:
        """Whether the platform, or a version of a model, answers predictions now. It does not wait for it."""
        return self._send(calls.ready(model, version))

    def schema(self, model: str, version: str | int | None = None) -> dict[str, Any]:
        """The JSON Schema of one record of the model."""
        return self._send(calls.schema(model, version))

    def _send(self, call: Call[T]) -> T:
        patience = self._settings.patience(call)
        while True:
            try:
                return call.read(self._request(call))
            except RampartError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None:
                    raise
            time.sleep(pause_s)

    def _request(self, call: Call[Any]) -> httpx.Response:
        try:
            return self._http.request(call.method, call.path, content=call.content, headers=call.headers)
        except httpx.HTTPError as error:
            failure = RampartError.of_transport(error, self.session.url)
        # Outside of the handler: httpx's exception has the request, and that the token.
        raise failure


class AsyncClient:
    """`Client` for asyncio. Use it in one event loop."""

    def __init__(self, session: Session | None = None, *, timeout_s: float = 30.0, retry_for_s: float = 30.0) -> None:
        self._settings = _Settings(session, timeout_s, retry_for_s)
        self.session = self._settings.session
        self._http = httpx.AsyncClient(
            base_url=self.session.url,
            verify=self.session.ssl_context(),
            auth=HttpxAuth(self.session),
            timeout=self._settings.timeout,
        )

    def __repr__(self) -> str:
        return f"AsyncClient({self.session!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections. The session goes on."""
        await self._http.aclose()

    @overload
    async def predict(
        self,
        model: str,
        data: Records | Columns,
        version: str | int | None = None,
        *,
        missing: Literal["nan"] | None = None,
    ) -> Predictions: ...

    @overload
    async def predict(
        self,
        model: str,
        data: pandas.DataFrame,
        version: str | int | None = None,
        *,
        missing: Literal["nan"] | None = None,
    ) -> pandas.DataFrame: ...

    async def predict(
        self, model: str, data: Any, version: str | int | None = None, *, missing: Literal["nan"] | None = None
    ) -> pandas.DataFrame | Predictions:
        """As `Client.predict`."""
        predictions = await self._send(features.predict(model, version, data, missing))
        return features.as_data_frame(predictions, data) if features.is_data_frame(data) else predictions

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str | int | None = None,
        *,
        outputs: Sequence[str] | None = None,
    ) -> Tensors:
        """As `Client.infer`."""
        from . import tensors  # NumPy is needed for this alone

        return await self._send(tensors.infer(model, version, inputs, outputs))

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._send(calls.models())

    async def ready(self, model: str | None = None, version: str | int | None = None) -> bool:
        """As `Client.ready`."""
        return await self._send(calls.ready(model, version))

    async def schema(self, model: str, version: str | int | None = None) -> dict[str, Any]:
        """As `Client.schema`."""
        return await self._send(calls.schema(model, version))

    async def _send(self, call: Call[T]) -> T:
        patience = self._settings.patience(call)
        while True:
            try:
                return call.read(await self._request(call))
            except RampartError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    async def _request(self, call: Call[Any]) -> httpx.Response:
        try:
            return await self._http.request(call.method, call.path, content=call.content, headers=call.headers)
        except httpx.HTTPError as error:
            failure = RampartError.of_transport(error, self.session.url)
        raise failure
