"""What the services' logs say against a run: a healthy one shows no WARN and no ERROR (`docs/LOGGING.md`)."""

from __future__ import annotations

import json
from pathlib import Path

# What may be said while everything starts at once, in no order. The same list is in `tests/src/complaints.rs`; it only
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


def complaints(started: dict[Path, int], expected: list[str]) -> list[str]:
    """Lines at WARN and ERROR and what is no log line at all, save messages that begin as one of `expected`.

    `started` is how long each log was at the end of the start.
    """
    found = []
    for log, length in started.items():
        content = log.read_bytes()
        start, rest = (part.decode(errors="replace").splitlines() for part in (content[:length], content[length:]))
        start = [line for line in start if not any(known in line for known in START_UP)]
        found += [f"{log.stem}: {line}" for line in start + rest if is_complaint(line, expected)]
    return found


def is_complaint(line: str, expected: list[str]) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return bool(line.strip())
    return event["level"] in ("WARN", "ERROR") and not event["message"].startswith(tuple(expected))
