"""Warnings and errors in the services' logs: a healthy run has none (`docs/LOGGING.md`)."""

from __future__ import annotations

import json
from pathlib import Path

# Warnings that are allowed while all processes start at once. The same list is in `tests/src/log_warnings.rs`; it only
# shrinks.
START_UP = [
    "users and revocations cannot be followed",
    "the database cannot be reached now",
    "acquired connection, but time to acquire exceeded slow threshold",
    "there is no transaction in progress",
]


def lengths(logs: Path) -> dict[Path, int]:
    """How long each service's log is now. PostgreSQL has levels of its own and is left out."""
    return {log: log.stat().st_size for log in sorted(logs.glob("*.log")) if log.stem != "postgres"}


def warnings(started: dict[Path, int], expected: list[str]) -> list[str]:
    """Lines at WARN and ERROR and what is no log line at all, save messages that begin as one of `expected`.

    `started` is how long each log was at the end of the start.
    """
    found = []
    for log, length in started.items():
        content = log.read_bytes()
        start, rest = (part.decode(errors="replace").splitlines() for part in (content[:length], content[length:]))
        start = [line for line in start if not any(allowed in line for allowed in START_UP)]
        found += [f"{log.stem}: {line}" for line in start + rest if is_unexpected(line, expected)]
    return found


def is_unexpected(line: str, expected: list[str]) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return bool(line.strip())
    return event["level"] in ("WARN", "ERROR") and not event["message"].startswith(tuple(expected))
