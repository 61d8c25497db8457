"""For tritonclient, over HTTP and gRPC."""

from __future__ import annotations

from typing import Any

from tritonclient._plugin import InferenceServerClientPlugin

from ..session import Session


class TritonAuth(InferenceServerClientPlugin):  # type: ignore[misc]  # it has no types
    """`client.register_plugin(TritonAuth(session))`, for `tritonclient.http` and `tritonclient.grpc`.

    A plugin does not see answers. After a revocation: `session.renew(session.token())`, and the call once more.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, request: Any) -> None:
        """Called by tritonclient before each request; a dictionary of the caller stays as it is."""
        request.headers = {**request.headers, "authorization": f"Bearer {self._session.token()}"}


class TritonAioAuth(TritonAuth):
    """The same for `tritonclient.http.aio` and `tritonclient.grpc.aio`, whose plugins cannot wait: a token is renewed
    in a thread while the present one is good. `await session.token_async()` once before the first call."""

    def __call__(self, request: Any) -> None:
        """Called by tritonclient in the event loop."""
        request.headers = {**request.headers, "authorization": f"Bearer {self._session.token_at_once()}"}
