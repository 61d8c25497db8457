"""What a session logs in with. No secret is part of what these print as."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from . import private_file


@dataclass(frozen=True)
class Password:
    """A person's name and password."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def from_file(cls, user: str, path: str | os.PathLike[str]) -> Password:
        """The password is the content of a file."""
        return cls(user, private_file.read(Path(path)))

    def form(self) -> dict[str, str]:
        """The login as a token request (RFC 6749)."""
        return {"grant_type": "password", "username": self.user, "password": self.password}


@dataclass(frozen=True)
class ClientCredentials:
    """A machine's name and client secret."""

    client_id: str
    client_secret: str = field(repr=False)

    @classmethod
    def from_file(cls, client_id: str, path: str | os.PathLike[str]) -> ClientCredentials:
        """The client secret is the content of a file."""
        return cls(client_id, private_file.read(Path(path)))

    def form(self) -> dict[str, str]:
        """The login as a token request (RFC 6749)."""
        return {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
        }


class RefreshToken:
    """A login that was made before: a refresh token, which is exchanged once for the next.

    From a file each next one is written back, so that the login can be taken up again by a later process. Two
    processes must not share it: the platform takes a refresh token that comes twice for stolen, and ends the login.
    """

    def __init__(self, token: str | None = None, *, file: str | os.PathLike[str] | None = None) -> None:
        if (token is None) == (file is None):
            raise ValueError("give a refresh token or the file that holds it")
        self._token = token
        self._file = None if file is None else Path(file)

    def __repr__(self) -> str:
        return f"RefreshToken(file={str(self._file)!r})" if self._file else "RefreshToken(...)"

    def load(self) -> str:
        """The one that can be exchanged now."""
        return private_file.read_token(self._file) if self._file else self._token or ""

    def store(self, token: str) -> None:
        """The next one."""
        if self._file:
            private_file.replace(self._file, token)
        else:
            self._token = token


@dataclass(frozen=True)
class TokenFile:
    """An access token in a file that another program keeps fresh. It is read for each request."""

    path: str | os.PathLike[str]

    def read(self) -> str:
        """The present token."""
        return private_file.read_token(Path(self.path))


Credentials: TypeAlias = Password | ClientCredentials | RefreshToken | TokenFile


def from_environment() -> Credentials:
    """`RAMPART_CLIENT_ID` and `RAMPART_CLIENT_SECRET_FILE`, or `RAMPART_USER` and `RAMPART_PASSWORD_FILE`, or
    `RAMPART_REFRESH_TOKEN_FILE`, or `RAMPART_TOKEN_FILE`: the first that is set.

    Secrets are files: the environment of a process is seen by others, and inherited.
    """
    client_id, secret_file = os.environ.get("RAMPART_CLIENT_ID"), os.environ.get("RAMPART_CLIENT_SECRET_FILE")
    if client_id and secret_file:
        return ClientCredentials.from_file(client_id, secret_file)
    user, password_file = os.environ.get("RAMPART_USER"), os.environ.get("RAMPART_PASSWORD_FILE")
    if user and password_file:
        return Password.from_file(user, password_file)
    if refresh_file := os.environ.get("RAMPART_REFRESH_TOKEN_FILE"):
        return RefreshToken(file=refresh_file)
    if token_file := os.environ.get("RAMPART_TOKEN_FILE"):
        return TokenFile(token_file)
    raise ValueError(
        "nothing to log in with: give auth=, or set RAMPART_CLIENT_ID and RAMPART_CLIENT_SECRET_FILE, "
        "RAMPART_USER and RAMPART_PASSWORD_FILE, RAMPART_REFRESH_TOKEN_FILE or RAMPART_TOKEN_FILE"
    )
