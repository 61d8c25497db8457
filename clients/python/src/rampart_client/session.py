"""A login that lasts: access tokens of ten minutes, renewed before they end."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from . import credentials
from .credentials import Credentials, RefreshToken, TokenFile
from .error import RampartError
from .patience import Patience

DEFAULT_FRONT = "https://localhost:8095"
TOKEN_PATH = "/api/auth/token"
# Renewed when this part of its life is over: what is left outlasts a short absence of the platform.
RENEWED_AFTER = 2 / 3
# A token is not used in its last seconds: it has to reach the platform while it is good.
LAST_MOMENTS_S = 5.0
# After a renewal that failed while the present token is good.
NEXT_TRY_S = 10.0
# An answer may be lost: for ten seconds the platform takes an exchanged refresh token once more. Later it is a theft.
REFRESH_PATIENCE_S = 8.0
REFUSED = frozenset({400, 401})


@dataclass(frozen=True)
class _Held:
    access_token: str
    renew_at: float
    ends_at: float


class Session:
    """Logs in when a token is first needed, and keeps it renewed; for any number of threads and tasks.

    Without arguments everything comes from the environment: `RAMPART_FRONT`, `RAMPART_CA_FILE`, and what
    `credentials.from_environment` reads. `hosts` are further names of the platform that may be sent a token.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        auth: Credentials | None = None,
        hosts: Iterable[str] = (),
        timeout_s: float = 10.0,
        retry_for_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = (url or os.environ.get("RAMPART_FRONT") or DEFAULT_FRONT).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.path:
            raise ValueError("the front door is https://HOST or https://HOST:PORT")
        self.authority = parts.netloc
        self.ca_file = ca_file or os.environ.get("RAMPART_CA_FILE") or None
        self._auth = auth if auth is not None else credentials.from_environment()
        self._hosts = frozenset({parts.hostname, *hosts})
        self._timeout_s, self._retry_for_s, self._clock = timeout_s, retry_for_s, clock
        self._ssl_context = ssl.create_default_context(cafile=self.ca_file)
        self._ssl_context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._held: _Held | None = None
        self._refresh_token: str | None = None
        self._lock = threading.Lock()
        self._logins = 0
        self._failure: RampartError | None = None
        _sessions.add(self)

    def __repr__(self) -> str:
        return f"Session({self.url!r}, auth={self._auth!r})"

    # === tokens ===

    def token(self) -> str:
        """An access token that is good now, as far as can be known here. Logs in or renews first where it must."""
        if isinstance(self._auth, TokenFile):
            return self._auth.read()
        held = self._usable()
        if held is None:
            return self._new_token(None)
        # One thread renews; the others go on with the token that they have.
        if self._is_due(held) and self._lock.acquire(blocking=False):
            try:
                held = self._renew_early()
            finally:
                self._lock.release()
        return held.access_token

    async def token_async(self) -> str:
        """As `token`. A login is made in a thread, which also completes it when the task is cancelled."""
        held = self._usable()
        if isinstance(self._auth, TokenFile) or (held is not None and not self._is_due(held)):
            return self.token()
        return await asyncio.to_thread(self.token)

    def token_at_once(self) -> str:
        """As `token`, for an event loop that cannot wait: renewed in a thread while the present token is good.

        It blocks for the first login, which `await token_async()` makes before.
        """
        held = self._usable()
        if isinstance(self._auth, TokenFile) or held is None:
            return self.token()
        if self._is_due(held) and not self._lock.locked():
            threading.Thread(target=self._renew_beside, name="rampart-renewal", daemon=True).start()
        return held.access_token

    def renew(self, refused: str) -> str:
        """Another token than the refused one, which may have been revoked. From a token file it may be the same."""
        if isinstance(self._auth, TokenFile):
            return self._auth.read()
        return self._new_token(refused)

    async def renew_async(self, refused: str) -> str:
        """As `renew`."""
        return await asyncio.to_thread(self.renew, refused)

    def seconds_to_renewal(self) -> float:
        """0 when the next call of `token` will log in or renew."""
        held = self._usable()
        return max(held.renew_at - self._clock(), 0.0) if held else 0.0

    # === the platform ===

    def ssl_context(self) -> ssl.SSLContext:
        """TLS 1.3, and no certificate but those of the CA file is believed."""
        return self._ssl_context

    def check_destination(self, url: str) -> None:
        """A token goes to the platform alone, and over TLS."""
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.hostname not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            raise RampartError(
                None, f"no token is sent to {parts.scheme}://{parts.hostname}: it is for https on {allowed} alone"
            )

    # === renewal: one at a time ===

    def _usable(self) -> _Held | None:
        held = self._held
        return held if held is not None and self._clock() < held.ends_at else None

    def _is_due(self, held: _Held) -> bool:
        return self._clock() >= held.renew_at

    def _new_token(self, refused: str | None) -> str:
        logins_before = self._logins
        with self._lock:
            held = self._usable()
            if held is not None and held.access_token != refused:
                return held.access_token
            if self._logins != logins_before and self._failure is not None:
                # Another thread has just tried in vain. If each waiter tried, the last would wait for all tries.
                raise self._failure.again()
            return self._log_in(self._retry_for_s).access_token

    def _renew_early(self) -> _Held:
        held = self._usable()
        if held is not None and not self._is_due(held):
            return held
        try:
            return self._log_in(0.0)
        except RampartError:
            held = self._usable()
            if held is None:
                raise
            self._held = replace(held, renew_at=self._clock() + NEXT_TRY_S)
            return self._held

    def _renew_beside(self) -> None:
        try:
            self.token()
        except (RampartError, OSError, ValueError):
            # The call that needs the token meets the same, and can tell its caller.
            pass

    def _log_in(self, patience_s: float) -> _Held:
        self._logins += 1
        try:
            held = self._by_refresh_token(patience_s) or self._by_credentials(patience_s)
        except RampartError as error:
            self._failure = error
            raise
        self._failure, self._held = None, held
        return held

    def _by_refresh_token(self, patience_s: float) -> _Held | None:
        """None if the login proper has to be made."""
        can_log_in = not isinstance(self._auth, RefreshToken)
        presented = self._refresh_token if can_log_in else self._load_refresh_token()
        if presented is None:
            return None
        form = {"grant_type": "refresh_token", "refresh_token": presented}
        try:
            return self._exchange(form, min(patience_s, REFRESH_PATIENCE_S))
        except RampartError as error:
            if not can_log_in:
                raise
            if error.status in REFUSED:
                self._refresh_token = None
                return None
            if error.status is None:
                # It may be exchanged, and the answer lost: presented later, it would be taken for stolen.
                self._refresh_token = None
            raise

    def _by_credentials(self, patience_s: float) -> _Held:
        assert not isinstance(self._auth, RefreshToken | TokenFile), "these have no login proper"
        return self._exchange(self._auth.form(), patience_s)

    def _load_refresh_token(self) -> str:
        assert isinstance(self._auth, RefreshToken)
        return self._auth.load()

    def _exchange(self, form: dict[str, str], patience_s: float) -> _Held:
        patience = Patience(patience_s, time.monotonic)
        while True:
            asked_at = self._clock()
            try:
                answer = self._ask(form)
                return self._accept(answer, asked_at)
            except RampartError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None:
                    raise
            time.sleep(pause_s)

    def _ask(self, form: dict[str, str]) -> Any:
        # A connection of its own: there is one exchange in minutes, and none to be shared after a fork.
        with httpx.Client(base_url=self.url, verify=self._ssl_context, timeout=self._timeout_s) as http:
            try:
                response = http.post(TOKEN_PATH, data=form)
            except httpx.HTTPError as error:
                failure = RampartError.of_transport(error, self.url)
            else:
                if response.is_success:
                    return _json(response)
                failure = RampartError.of_response(response)
        # Outside of the handler: httpx's exception has the request, and that the password.
        raise failure

    def _accept(self, answer: Any, asked_at: float) -> _Held:
        answer = answer if isinstance(answer, dict) else {}
        access_token, lifetime_s = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(access_token, str) or not isinstance(lifetime_s, int | float) or lifetime_s <= 0:
            raise RampartError(200, f"{self.url}{TOKEN_PATH} answered with something else than a token")
        refresh_token = answer.get("refresh_token")
        if isinstance(refresh_token, str):
            self._refresh_token = refresh_token
            if isinstance(self._auth, RefreshToken):
                self._auth.store(refresh_token)
        last_moments_s = min(LAST_MOMENTS_S, lifetime_s / 10)
        return _Held(access_token, asked_at + lifetime_s * RENEWED_AFTER, asked_at + lifetime_s - last_moments_s)

    def _after_fork(self) -> None:
        """In the child: the lock may have been held by a thread that is not here, and the parent goes on with the
        refresh token, which is good for one of them."""
        self._lock = threading.Lock()
        self._refresh_token = None


def _json(response: httpx.Response) -> Any:
    # Not the decoder's exception: it has the text, and that may have tokens.
    try:
        return response.json()
    except ValueError:
        return None


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _sessions_after_fork() -> None:
    for session in list(_sessions):
        session._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sessions_after_fork)
