"""For httpx, and for what is built on it: KServe's InferenceRESTClient."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from ..session import Session


class HttpxAuth(httpx.Auth):
    """`httpx.Client(auth=HttpxAuth(session))`, and `AsyncClient` likewise. A 401 is answered by a new token, once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by `httpx.Client`."""
        self._session.check_destination(str(request.url))
        token = self._session.token()
        response = yield _authorized(request, token)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            renewed = self._session.renew(token)
            if renewed != token and _can_be_sent_again(request):
                yield _authorized(request, renewed)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Called by `httpx.AsyncClient`."""
        self._session.check_destination(str(request.url))
        token = await self._session.token_async()
        response = yield _authorized(request, token)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            renewed = await self._session.renew_async(token)
            if renewed != token and _can_be_sent_again(request):
                yield _authorized(request, renewed)


def _authorized(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _can_be_sent_again(request: httpx.Request) -> bool:
    """A body that came out of an iterator is gone. The next request has the new token in any case."""
    return isinstance(request.stream, httpx.ByteStream)
