"""The platform that the tests talk to: one that runs already, or one started for them.

`RAMPART_STATE` names the state file of a running `rampart dev`. Without it, `RAMPART_BINARY`, `RAMPART_ONNXRUNTIME` and
`RAMPART_ONNXRUNTIME_SHA256` say what to start; `scripts/test` sets them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import log_warnings
from poll import until

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples" / "models"
READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60
SETPRIV = Path("/usr/bin/setpriv")
# Beginnings of WARN and ERROR messages that the tests provoke. Bad requests must cause none.
EXPECTED_WARNINGS: list[str] = []


@dataclass(frozen=True)
class Platform:
    """The front door, the CA of its certificate, and the files with access tokens."""

    front: str
    ca_file: str
    token_files: dict[str, str]
    data: Path

    @classmethod
    def from_state(cls, state_file: Path) -> Platform:
        state = json.loads(state_file.read_text())
        return cls(state["front"], state["ca_file"], state["tokens"], Path(state["data"]))

    @property
    def authority(self) -> str:
        """`host:port`, as tritonclient wants it."""
        return urlsplit(self.front).netloc

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.front)
        return parts.hostname, parts.port

    def token(self, role: str) -> str:
        """An access token of the role's account. Read each time: `rampart dev` renews the files."""
        return Path(self.token_files[role]).read_text().strip()

    def bearer(self, role: str) -> dict[str, str]:
        """A header dictionary of its own for each call: tritonclient leaves its headers in the one it is given."""
        return {"authorization": f"Bearer {self.token(role)}"}

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


@contextmanager
def running_platform():
    """Yields a Platform; stops it afterwards, and only if it was started here."""
    state_file = os.environ.get("RAMPART_STATE")
    if state_file:
        yield Platform.from_state(Path(state_file))
        return
    with started_platform(EXAMPLES, EXPECTED_WARNINGS) as platform:
        yield platform


@contextmanager
def started_platform(models: Path, expected_warnings: list[str]):
    """A platform of its own over a folder of models, which it may change."""
    # Not pytest's tmp_path: under root PostgreSQL runs as another user, which must be able to pass through.
    data = Path(tempfile.mkdtemp(prefix="rampart-clients-"))
    output = data.with_suffix(".log")
    process = _spawn(data, models, output)
    try:
        _wait_until_ready(process, data / "state.json", output)
        started = log_warnings.lengths(data / "logs")
        yield Platform.from_state(data / "state.json")
        _stop(process)
        found = log_warnings.warnings(started, expected_warnings)
        assert not found, "the services logged warnings during the tests:\n" + "\n".join(found)
    except BaseException:
        if process.poll() is None:
            process.kill()
            process.wait()
        print(f"{output}:\n{_tail(output)}")
        raise
    finally:
        shutil.rmtree(data, ignore_errors=True)
        output.unlink(missing_ok=True)


def _spawn(data: Path, models: Path, output: Path) -> subprocess.Popen:
    command = [
        os.environ["RAMPART_BINARY"], "dev", "--port", "0", "--data", str(data),
        "--models", str(models),
        "--onnxruntime", os.environ["RAMPART_ONNXRUNTIME"],
        "--onnxruntime-sha256", os.environ["RAMPART_ONNXRUNTIME_SHA256"],
    ]  # fmt: skip
    if SETPRIV.exists():
        # The kernel ends it when this process is killed: interrupted tests leave nothing.
        command = [str(SETPRIV), "--pdeathsig", "TERM", "--", *command]
    with output.open("w") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _wait_until_ready(process: subprocess.Popen, state_file: Path, output: Path) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, f"rampart dev ended with {process.returncode}"
        return state_file.exists() and "running; Ctrl-C" in output.read_text()

    until("rampart dev is ready", READY_TIMEOUT_S, is_ready)


def _stop(process: subprocess.Popen) -> None:
    """As Ctrl-C does. It must end by itself, cleanly and soon."""
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_TIMEOUT_S) == 0, f"rampart dev ended with {process.returncode} after Ctrl-C"


def _tail(path: Path, line_count: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-line_count:]) if path.exists() else "(nothing)"
