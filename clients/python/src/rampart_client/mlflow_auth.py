"""MLflow's plugin: `MLFLOW_TRACKING_AUTH=rampart` keeps a job logged in for as long as it runs.

What it logs in with comes from the environment, as for `Session()`. Without `RAMPART_FRONT` and `RAMPART_CA_FILE` the
address and the CA are those that MLflow has: the registry is behind the same front door.
"""

from __future__ import annotations

import os
import threading
from urllib.parse import urlsplit

from .auth.requests_auth import RequestsAuth
from .session import Session

_lock = threading.Lock()
_auth: dict[tuple[str | None, str | None], RequestsAuth] = {}


class RampartRequestAuthProvider:
    """What MLflow finds by the entry point `mlflow.request_auth_provider`.

    It has the two methods of MLflow's abstract class and does not derive from it, which would import MLflow.
    """

    def get_name(self) -> str:
        """The value of `MLFLOW_TRACKING_AUTH`."""
        return "rampart"

    def get_auth(self) -> RequestsAuth:
        """Asked for with each request: one login for all of them."""
        front = os.environ.get("RAMPART_FRONT") or _origin(os.environ.get("MLFLOW_TRACKING_URI"))
        ca_file = os.environ.get("RAMPART_CA_FILE") or os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        with _lock:
            if (front, ca_file) not in _auth:
                tracking = urlsplit(os.environ.get("MLFLOW_TRACKING_URI") or "").hostname
                session = Session(front, ca_file=ca_file, hosts=[tracking] if tracking else [])
                _auth[front, ca_file] = RequestsAuth(session)
            return _auth[front, ca_file]


def _origin(uri: str | None) -> str | None:
    parts = urlsplit(uri or "")
    return f"https://{parts.netloc}" if parts.scheme == "https" else None
