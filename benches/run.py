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
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

from running import running_platform  # noqa: E402

MODEL = ROOT / "examples" / "models" / "breast-cancer-forest"
VERSION = "2"
FOLDERS = [("RAMPART_ACCESS", "access"), ("RAMPART_CERTS", "certs")]
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Longer than what the load generator may take besides the load: connecting, and its last answers.
LOAD_TIMEOUT_S = 60
OWN_TARGETS = [
    ("front-rest", "Rampart, front door, REST"),
    ("front-grpc", "Rampart, front door, gRPC"),
    ("replica", "Rampart, one replica directly, REST"),
    ("replica-grpc", "Rampart, one replica directly, gRPC"),
]


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
    parser.add_argument("--containers", action="store_true", help="measure the running platform of scripts/up, too")
    parser.add_argument("--profile", action="store_true", help="sample the front door under load, and nothing else")
    arguments = parser.parse_args()
    arguments.warm_up_s = arguments.duration_s
    os.environ.pop("RAMPART_STATE", None)  # the platform that is measured is the one that was built for it
    print(profile(arguments) if arguments.profile else table(measure(arguments)))


def measure(arguments) -> list[Row]:
    rows = [raw_engine(arguments)]
    if arguments.containers:
        rows += in_containers(arguments)
    with running_platform() as platform:
        rows += own_rows(arguments, platform.data)
        request = platform.data / "example-request.json"
        with mlserver(arguments) as peer:
            for via, what, address in [
                ("peer-rest", "MLServer, no security, REST", peer["rest"].removeprefix("http://")),
                ("peer-grpc", "MLServer, no security, gRPC", peer["grpc"]),
            ]:
                for connections in arguments.connections:
                    pids = [peer["pid"]]
                    rows.append(load(arguments, what, connections, pids, request, ["--via", via, "--peer", address]))
    return rows


def own_rows(arguments, data: Path) -> list[Row]:
    """A running platform with its data there."""
    return [own_row(arguments, data, via, what, connections) for via, what, connections in own_targets(arguments)]


def own_targets(arguments) -> list[tuple[str, str, int]]:
    """How each row is measured, what it is called, and its connections."""
    return [(via, what, connections) for via, what in OWN_TARGETS for connections in arguments.connections]


def own_row(arguments, data: Path, via: str, what: str, connections: int) -> Row:
    state_file = data / "state.json"
    pids = list(json.loads(state_file.read_text())["pids"].values())
    target = ["--via", via, "--state", state_file]
    return load(arguments, what, connections, pids, data / "example-request.json", target)


def in_containers(arguments) -> list[Row]:
    """The platform that scripts/up started, which stands still afterwards while the others are measured."""
    access, certs = (Path(os.environ.get(name, ROOT / folder)) for name, folder in FOLDERS)
    port = os.environ.get("RAMPART_PORT_8095", "8095")
    described = {
        "front": f"https://localhost:{port}",
        "ca_file": str(certs / "ca.pem"),
        "tokens": {"analyst": str(access / "tokens" / "analyst.token")},
        "identities": "",
        "data": str(access),
        "listeners": {},
        "database": "127.0.0.1:1",
    }
    compose = ["docker", "compose"]
    ids = subprocess.run([*compose, "ps", "--quiet"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    inspect = ["docker", "inspect", "--format", "{{.State.Pid}}", *ids]
    pids = [int(pid) for pid in subprocess.run(inspect, check=True, stdout=subprocess.PIPE, text=True).stdout.split()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        state_file = Path(folder) / "state.json"
        state_file.write_text(json.dumps(described))
        for via, protocol in [("front-rest", "REST"), ("front-grpc", "gRPC")]:
            for connections in arguments.connections:
                target = ["--via", via, "--state", state_file]
                what = f"Rampart in containers, front door, {protocol}"
                rows.append(load(arguments, what, connections, pids, access / "example-request.json", target))
    subprocess.run([*compose, "stop"], check=True)
    print("the platform in containers is stopped; scripts/up starts it again", file=sys.stderr, flush=True)
    return rows


def load(arguments, what: str, connections: int, pids: list[int], request: Path, target: list) -> Row:
    """One closed-loop load, after another one to warm up that is not counted."""
    print(f"{what}, {connections} connections", file=sys.stderr, flush=True)
    if arguments.warm_up_s:
        run_load(arguments, connections, request, target, arguments.warm_up_s)  # on connections of its own
    before = cpu_seconds(pids)
    answer = run_load(arguments, connections, request, target, arguments.duration_s)
    cpu = cpu_seconds(pids) - before
    figures = json.loads(answer)
    return Row(what, connections, figures, cpu / figures["requests"] * 1e6)


def run_load(arguments, connections: int, request: Path, target: list, duration_s: int) -> str:
    command = load_command(arguments, connections, request, target, duration_s)
    limit = duration_s + LOAD_TIMEOUT_S
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit).stdout


def load_command(arguments, connections: int, request: Path, target: list, duration_s: int) -> list:
    command = [arguments.load, *target, "--model", MODEL.name, "--request", request]
    return [*command, "--connections", str(connections), "--duration-s", str(duration_s), "--warm-up-s", "0"]


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and all that they started, which for PostgreSQL is where its work is done."""
    # With what their ended children used.
    return sum(sum(map(int, fields[11:15])) for fields in processes_below(pids).values()) / CLOCK_TICKS_PER_S


def processes_below(pids: list[int]) -> dict[int, list[str]]:
    """These processes and all that they started, with the fields of their stat that follow the name."""
    fields_of = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command's name is in parentheses and may contain anything; what follows it is regular.
            fields_of[int(stat.parent.name)] = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
    parents = {pid: int(fields[1]) for pid, fields in fields_of.items()}
    return {pid: fields for pid, fields in fields_of.items() if is_below(pid, set(pids), parents)}


def is_below(pid: int, ancestors: set[int], parents: dict[int, int]) -> bool:
    while pid in parents:
        if pid in ancestors:
            return True
        pid = parents[pid]
    return False


def profile(arguments) -> str:
    """Where the platform's time goes while the front door answers REST: by process and library, then by function."""
    with running_platform() as platform, tempfile.TemporaryDirectory() as folder:
        state_file = platform.data / "state.json"
        pids = json.loads(state_file.read_text())["pids"]
        names = ["balancer-1", *(name for name in pids if name.startswith("serving-"))]
        target = ["--via", "front-rest", "--state", state_file]
        request = platform.data / "example-request.json"
        command = load_command(arguments, max(arguments.connections), request, target, arguments.duration_s)
        samples = Path(folder) / "samples"
        # With the processes of the models.
        sampled = ",".join(map(str, processes_below([pids[name] for name in names])))
        record = ["perf", "record", "--quiet", "--freq", "499", "--output", samples, "--pid", sampled, "--", *command]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL)
        reports = []
        for columns, least in [("comm", "0.1"), ("comm,dso", "0.5"), ("comm,symbol", "0.7")]:
            report = ["perf", "report", "--stdio", "--no-children", "--input", samples]
            report += ["--sort", columns, "--percent-limit", least]
            text = subprocess.run(
                report, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ).stdout
            lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
            # perf pads to the longest name and ends with columns that are empty here.
            reports.append("\n".join(re.sub(r"\s+-\s+-\s*$", "", line).rstrip() for line in lines))
        return "\n\n".join(reports)


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
    return "\n".join([*lines, "", *ratios(rows)])


def ratios(rows: list[Row]) -> list[str]:
    """What is compared, as figures that do not depend on the machine so much."""
    by_what = {(row.what, row.connections): row.figures for row in rows}
    lines = []
    many = max(row.connections for row in rows)
    for protocol in ("REST", "gRPC"):
        ours = by_what[f"Rampart, front door, {protocol}", many]["requests_per_s"]
        theirs = by_what[f"MLServer, no security, {protocol}", many]["requests_per_s"]
        lines.append(f"{protocol}, {many} connections: {ours / theirs:.1f} times MLServer")
        contained = by_what.get((f"Rampart in containers, front door, {protocol}", many))
        if contained:
            share = contained["requests_per_s"] / ours
            lines.append(f"{protocol}, {many} connections: in containers {share:.0%} of `rampart dev`")
    raw = rows[0].figures["p50_us"]
    for row in rows:
        if row.connections == 1 and row.what.startswith("Rampart"):
            lines.append(
                f"{row.what}, one connection: p50 is {row.figures['p50_us'] - raw:.0f} µs over the engine alone"
            )
    return lines


if __name__ == "__main__":
    main()
