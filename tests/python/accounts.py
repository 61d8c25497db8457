"""Users for one test each, sessions that remember how they logged in, and a clock that can be put forward."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from poll import until
from rampart_client import ClientCredentials, Credentials, Password, Session
from running import Platform

USERS = "/api/admin/users"
LIFETIME_S = 600


class Clock:
    """Runs as the monotonic one does, and can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class WatchedSession(Session):
    """A session that keeps which grants it has asked the platform for, and how often it was answered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        super().__init__(*arguments, **{"clock": self.clock, **options})

    def _ask(self, form: dict[str, str]) -> Any:
        self.asked.append(form["grant_type"])
        return super()._ask(form)


@dataclass(frozen=True)
class Account:
    """A user of the platform, with what it logs in with."""

    id: str
    name: str
    credentials: Password | ClientCredentials
    platform: Platform

    def session(self, auth: Credentials | None = None, **options: Any) -> WatchedSession:
        """A session of its own, not yet logged in."""
        return WatchedSession(
            self.platform.front, ca_file=self.platform.ca_file, auth=auth or self.credentials, **options
        )


class Accounts:
    """Makes users as the admin, and takes their rights away."""

    def __init__(self, rest: httpx.Client, platform: Platform) -> None:
        self._rest, self._platform = rest, platform
        self.made: list[str] = []

    def person(self, role: str = "analyst") -> Account:
        password = secrets.token_urlsafe(24)
        made = self._make({"kind": "person", "roles": [role], "password": password})
        return Account(made["id"], made["name"], Password(made["name"], password), self._platform)

    def machine(self, role: str = "analyst") -> Account:
        made = self._make({"kind": "machine", "roles": [role]})
        credentials = ClientCredentials(made["name"], made["client_secret"])
        return Account(made["id"], made["name"], credentials, self._platform)

    def revoke_everything_of(self, account: Account, token: str) -> None:
        """Ends its logins and their tokens, of which this is one; not the right to log in again."""
        self._call("POST", f"{USERS}/{account.id}/revoke")
        self._until_refused(token)

    def revoke_token(self, session: Session) -> str:
        """Revokes the session's present token alone, as its owner may, and returns it."""
        token = session.token()
        response = self._rest.post("/api/auth/revoke", json={"token": token}, headers=_bearer(token))
        assert response.status_code == 200, response.text
        self._until_refused(token)
        return token

    def _until_refused(self, token: str) -> None:
        """The balancers learn of a revocation a moment after it is made."""
        until("the token is refused", 30, lambda: self._rest.get("/v2", headers=_bearer(token)).status_code == 401)

    def _make(self, user: dict[str, Any]) -> dict[str, Any]:
        made = self._call("POST", USERS, {"name": f"client-{uuid.uuid4().hex[:12]}", **user})
        self.made.append(made["id"])
        return made

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        response = self._rest.request(method, path, json=body, headers=self._platform.bearer("admin"))
        assert response.is_success, response.text
        return response.json() if response.content else None

    def delete(self) -> None:
        for user in self.made:
            self._call("DELETE", f"{USERS}/{user}")


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@contextmanager
def accounts_for_a_test(rest: httpx.Client, platform: Platform) -> Iterator[Accounts]:
    """Whatever was made is gone afterwards."""
    accounts = Accounts(rest, platform)
    try:
        yield accounts
    finally:
        accounts.delete()
