"""When a failed request is worth another try, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable

from .error import RampartError

FIRST_PAUSE_S = 0.1
PAUSE_MAX_S = 2.0


class Patience:
    """Pauses between the tries of one request, `total_s` for all of them together."""

    def __init__(self, total_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = clock() + total_s
        self._pause_s = FIRST_PAUSE_S

    def pause_after(self, error: RampartError) -> float | None:
        """Seconds to wait before the next try, or None if there is none. What `Retry-After` says is kept to."""
        if not error.may_be_repeated:
            return None
        # Clients that were refused together do not come back together.
        pause_s = max(error.retry_after or 0.0, self._pause_s) * random.uniform(1.0, 1.25)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s if self._clock() + pause_s <= self._ends_at else None
