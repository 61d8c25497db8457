"""Files that hold a secret: read whole, replaced at once, readable by their owner alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SECRET_BYTES_MAX = 64 * 1024


def read(path: Path) -> str:
    """The secret without the line end that editors add."""
    with path.open("rb") as file:
        content = file.read(SECRET_BYTES_MAX + 1)
    if len(content) > SECRET_BYTES_MAX:
        raise ValueError(f"{path} is too large to be a secret")
    secret = content.decode().rstrip("\r\n")
    if not secret:
        raise ValueError(f"{path} is empty")
    return secret


def read_token(path: Path) -> str:
    """A token, which is one word: an error about anything else as a header would print it."""
    token = read(path).strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(f"{path} does not hold a token")
    return token


def replace(path: Path, secret: str) -> None:
    """A reader sees the old secret or the new one, never a part. The file is 0600 from its first byte on."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
