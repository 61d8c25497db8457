"""The one exception of this package: what the platform answered, or that it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

# A detail longer than this is no sentence any more.
DETAIL_CHARACTERS_MAX = 2_000
ERRORS_MAX = 1_000
# What the platform says when the same request may succeed a little later.
PASSING = frozenset({429, 503})


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a request."""

    field: str
    detail: str
    row: int | None = None

    def __str__(self) -> str:
        place = self.field if self.row is None else f"{self.field} in row {self.row}"
        return f"{place}: {self.detail}"


class RampartError(Exception):
    """A refusal of the platform, or that there was no answer.

    `status` is the HTTP status, or None without an answer; `detail` the sentence of the platform; `errors` what is
    wrong with which field; `retry_after` the seconds after which the platform wants to be asked again.
    """

    def __init__(
        self,
        status: int | None,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
        may_be_repeated: bool = False,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.may_be_repeated = may_be_repeated or status in PASSING

    def __str__(self) -> str:
        said = self.detail if self.status is None else f"{self.status}: {self.detail}"
        further = [str(error) for error in self.errors if error.detail not in self.detail]
        return "; ".join([said, *further])

    def again(self) -> RampartError:
        """The same error to be raised in another thread: an exception collects the frames that it passed."""
        return RampartError(
            self.status,
            self.detail,
            errors=self.errors,
            retry_after=self.retry_after,
            may_be_repeated=self.may_be_repeated,
        )

    @classmethod
    def of_response(cls, response: httpx.Response) -> RampartError:
        """From problem+json, the inference protocol's `{"error": …}`, MLflow's `{"message": …}`, or any other body."""
        body = _json_object(response)
        detail = next((body[name] for name in ("detail", "error", "message") if isinstance(body.get(name), str)), None)
        detail = detail or response.text.strip() or response.reason_phrase
        return cls(
            response.status_code,
            detail[:DETAIL_CHARACTERS_MAX],
            errors=_field_errors(body),
            retry_after=_seconds(response.headers.get("retry-after")),
        )

    @classmethod
    def of_transport(cls, error: httpx.HTTPError, url: str) -> RampartError:
        """There was no answer. Only a time-out while waiting for one is not worth another try."""
        detail = f"no answer from {url}: {str(error) or type(error).__name__}"
        waited = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        may_be_repeated = isinstance(error, httpx.TransportError) and not waited
        # A certificate that is not believed will not be believed the next time.
        may_be_repeated = may_be_repeated and "CERTIFICATE_VERIFY_FAILED" not in detail
        return cls(None, detail, may_be_repeated=may_be_repeated)


def _json_object(response: httpx.Response) -> Mapping[str, Any]:
    if "json" not in response.headers.get("content-type", ""):
        return {}
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _field_errors(body: Mapping[str, Any]) -> tuple[FieldError, ...]:
    listed = body.get("errors")
    found = []
    for error in listed[:ERRORS_MAX] if isinstance(listed, list) else ():
        if isinstance(error, dict) and isinstance(error.get("detail"), str):
            row = error.get("row")
            found.append(
                FieldError(str(error.get("field", "")), error["detail"], row if isinstance(row, int) else None)
            )
    if not found and isinstance(body.get("field"), str):
        found.append(FieldError(body["field"], str(body.get("detail", ""))))
    return tuple(found)


def _seconds(retry_after: str | None) -> float | None:
    """The platform sends whole seconds, never a date."""
    try:
        return max(float(retry_after), 0.0) if retry_after else None
    except ValueError:
        return None
