"""Waiting for a state, never for a moment: the one place that sleeps, between one look and the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PERIOD_S = 0.1

T = TypeVar("T")


def until(what: str, limit_s: float, ask: Callable[[], T | None]) -> T:
    """Asks until there is an answer, and returns it."""
    deadline = time.monotonic() + limit_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(PERIOD_S)
    return answer
