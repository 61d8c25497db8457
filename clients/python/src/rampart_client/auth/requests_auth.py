"""For requests, and for what is built on it: MLflow."""

from __future__ import annotations

from functools import partial
from typing import Any

import requests
from requests.auth import AuthBase

from ..session import Session

UNAUTHORIZED = 401


class RequestsAuth(AuthBase):
    """`requests.get(url, auth=RequestsAuth(session))`. A 401 is answered by a new token, once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Called by requests for each request that it prepares."""
        self._session.check_destination(request.url or "")
        token = self._session.token()
        request.headers["Authorization"] = f"Bearer {token}"
        answered = partial(self._answered, token, _position(request.body))
        request.register_hook("response", answered)  # type: ignore[no-untyped-call]
        return request

    def _answered(self, token: str, position: int | None, response: requests.Response, **options: Any) -> Any:
        if response.status_code != UNAUTHORIZED:
            return response
        renewed = self._session.renew(token)
        again = response.request.copy()
        if renewed == token or not _rewound(again.body, position):
            return response
        # The connection is free for the next request when the answer was read.
        response.content  # noqa: B018
        response.close()
        again.headers["Authorization"] = f"Bearer {renewed}"
        answer: requests.Response = response.connection.send(again, **options)
        answer.history.append(response)
        answer.request = again
        return answer


def _position(body: Any) -> int | None:
    try:
        return int(body.tell())
    except (AttributeError, OSError):
        return None


def _rewound(body: Any, position: int | None) -> bool:
    """Whether the body can be sent again: text and bytes, or a file that was put back to where it began."""
    if body is None or isinstance(body, str | bytes):
        return True
    if position is None:
        return False
    try:
        body.seek(position)
    except (AttributeError, OSError):
        return False
    return True
