"""Measures the platform, MLServer and the bare engine in one run on one machine, with the same model and request.

Called by scripts/bench, which builds and installs what it needs. Prints a Markdown table.

Everything shares the machine, the load generator included: the figures compare what stands in the table, and say
little about another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

from running import running_platform  # noqa: E402

MODEL = ROOT / "examples" / "models" / "breast-cancer-forest"
VERSION = "2"
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    connections: int
    figures: dict
    cpu_ms_per_1000: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=Path, required=True, help="the load generator")
    parser.add_argument("--mlserver-python", type=Path, required=True, help="the interpreter that has mlserver")
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--duration-s", type=int, default=10)
    arguments = parser.parse_args()

    rows = [raw_engine(arguments)]
    with running_platform() as platform:
        state_file = platform.data / "state.json"
        state = json.loads(state_file.read_text())
        request = platform.data / "example-request.json"
        for via, what in [
            ("front-rest", "Rampart, front door, REST"),
            ("front-grpc", "Rampart, front door, gRPC"),
            ("replica", "Rampart, one replica directly, REST"),
        ]:
            for connections in arguments.connections:
                pids = list(state["pids"].values())
                rows.append(load(arguments, what, connections, pids, request, ["--via", via, "--state", state_file]))
        with mlserver(arguments) as peer:
            for via, what, address in [
                ("peer-rest", "MLServer, no security, REST", peer["rest"].removeprefix("http://")),
                ("peer-grpc", "MLServer, no security, gRPC", peer["grpc"]),
            ]:
                for connections in arguments.connections:
                    pids = [peer["pid"]]
                    rows.append(load(arguments, what, connections, pids, request, ["--via", via, "--peer", address]))
    print(table(rows))


def load(arguments, what: str, connections: int, pids: list[int], request: Path, target: list) -> Row:
    """One closed-loop load. The server's CPU time covers the warm-up too, and is divided by all that was answered."""
    print(f"{what}, {connections} connections", file=sys.stderr, flush=True)
    command = [arguments.load, *target, "--model", MODEL.name, "--request", request]
    command += ["--connections", str(connections), "--duration-s", str(arguments.duration_s), "--warm-up-s", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # warm-up, on connections of its own
    before = cpu_seconds(pids)
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu = cpu_seconds(pids) - before
    figures = json.loads(answer)
    return Row(what, connections, figures, cpu / figures["requests"] * 1e6)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes, with all of their threads."""
    ticks = 0
    for pid in pids:
        # The command's name is in parentheses and may contain anything; what follows it is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS_PER_S


def raw_engine(arguments) -> Row:
    command = [arguments.mlserver_python, ROOT / "benches" / "raw_onnxruntime.py", MODEL, VERSION]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return Row("ONNX Runtime alone, one thread", 0, figures, figures["cpu_ms_per_1000"])


@contextmanager
def mlserver(arguments):
    command = [arguments.mlserver_python, ROOT / "benches" / "mlserver" / "serve.py", MODEL, VERSION]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        described = server.stdout.readline()
        assert described, "MLServer did not start, its message is above"
        try:
            yield json.loads(described)
        finally:
            server.stdin.close()  # which ends it


def table(rows: list[Row]) -> str:
    lines = [
        f"{os.cpu_count()} cores ({machine.machine()}), {MODEL.name} version {VERSION}, one row per request",
        "",
        "| what | connections | predictions/s | p50 µs | p95 µs | p99 µs | CPU ms per 1,000 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        it = row.figures
        cells = [
            row.what,
            str(row.connections or "-"),
            f"{it['requests_per_s']:,.0f}",
            f"{it['p50_us']:,}",
            f"{it['p95_us']:,}",
            f"{it['p99_us']:,}",
            f"{row.cpu_ms_per_1000:,.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
