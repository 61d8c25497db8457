"""Runs clients that are programs, or that need a Python environment of their own.

A program that is not there fails the test: scripts/test installs them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from running import REPOSITORY

TIME_OUT_S = 120
# What rampart-client and the files beside this one need to be found by another interpreter.
OWN_PACKAGES = (REPOSITORY / "tests" / "python", REPOSITORY / "clients" / "python" / "src")


@dataclass(frozen=True)
class Done:
    """What a program wrote, and how it ended."""

    code: int
    output: str
    errors: str

    def succeeded(self) -> str:
        assert self.code == 0, f"ended with {self.code}:\n{self.errors}\n{self.output}"
        return self.output


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: scripts/test clients installs it"
    return found


def interpreter(name: str) -> Path:
    """The Python of another environment, which scripts/test makes and names: RAMPART_KSERVE_PYTHON and the like."""
    variable = f"RAMPART_{name.upper()}_PYTHON"
    assert variable in os.environ, f"set {variable} to the interpreter that has {name}: scripts/test clients does"
    return Path(os.environ[variable])


def run(command: Iterable[object], *, given: str | bytes = "", environment: Mapping[str, str] | None = None) -> Done:
    """Runs a program to its end, with nothing of this environment but its PATH."""
    given = given.encode() if isinstance(given, str) else given
    done = subprocess.run(
        [str(part) for part in command],
        input=given,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environment or {})},
        capture_output=True,
        timeout=TIME_OUT_S,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))


def own_packages() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(map(str, OWN_PACKAGES)), "PYTHONDONTWRITEBYTECODE": "1"}
