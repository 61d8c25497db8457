"""The binary `rampart` as people and scripts run it: with pipes, with files, on a terminal, and through a proxy."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import termios
import threading
from contextlib import suppress
from typing import IO, Any

from poll import until
from running import Platform

TIMEOUT_S = 120
# Of the machine that tests, which must not decide what is tested.
VARIABLES = ("RAMPART_STATE", "RAMPART_FRONT", "RAMPART_CA_FILE", "RAMPART_TOKEN_FILE", "NO_PROXY", "no_proxy")


class CommandLine:
    """`rampart` for one platform, which it knows by its state file."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def run(
        self,
        *arguments: str,
        stdin: str = "",
        stdout: IO[str] | int = subprocess.PIPE,
        state: str | None = "",
        role: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end. The role's token is used instead of the one that the command would take."""
        command = self.command(*arguments, role=role)
        return subprocess.run(
            command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S,
            env=self.environment(state, environment),
        )  # fmt: skip

    def good(self, *arguments: str, **options: Any) -> str:
        """What it prints, if it ends well."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, (arguments, done)
        return done.stdout

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self.good(*arguments, "--json", **options))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.environment("", None), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def on_a_terminal(self, *arguments: str) -> str:
        """What a terminal shows of it."""
        terminal = Terminal(self.command(*arguments), self.environment("", None))
        shown = terminal.rest()
        assert terminal.wait() == 0, shown
        return shown

    def user(self, name: str) -> dict[str, Any]:
        (user,) = [user for user in self.json("users", "list")["users"] if user["name"] == name]
        return user

    def user_names(self) -> list[str]:
        return [user["name"] for user in self.json("users", "list")["users"]]

    def command(self, *arguments: str, role: str | None = None) -> list[str]:
        token = ["--token-file", self.platform.token_files[role]] if role else []
        return [os.environ["RAMPART_BINARY"], *arguments, *token]

    def environment(self, state: str | None, more: dict[str, str] | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        if state is not None:
            kept["RAMPART_STATE"] = state or str(self.platform.data / "state.json")
        return {**kept, **(more or {})}


class Terminal:
    """A process with a terminal of its own, of which this is the other end."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process, self.descriptor = pty.fork()
        if self._process == 0:
            os.execve(command[0], command, environment)
        self.shown = ""

    def until(self, words: str) -> None:
        """Reads until the words are shown."""
        while words not in self.shown:
            assert self._read(), self.shown

    def until_unechoed(self) -> None:
        """The prompt comes a moment before; a person is slower, a test is not."""
        until("the terminal does not echo", TIMEOUT_S, lambda: not termios.tcgetattr(self.descriptor)[3] & termios.ECHO)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def rest(self) -> str:
        """Everything that is shown, up to the end of the process."""
        while self._read():
            pass
        return self.shown.replace("\r\n", "\n")

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        os.close(self.descriptor)
        return status

    def _read(self) -> bool:
        # Linux says so when the other end is closed.
        with suppress(OSError):
            piece = os.read(self.descriptor, 4096)
            self.shown += piece.decode()
            return bool(piece)
        return False


class ConnectProxy:
    """An HTTP proxy that knows CONNECT alone, and remembers what it was asked for."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            line = head.split(b"\r\n")[0].decode()
            self.asked.append(line)
            host, port = line.split()[1].rsplit(":", 1)
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                threading.Thread(target=_copy, args=[server, client], daemon=True).start()
                _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
