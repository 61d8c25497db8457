"""Measures the working tree beside another commit, in interleaved rounds on one machine.

Called by scripts/bench --against REF, which builds both. Prints a Markdown table.

In each round both platforms are started. Each row is measured in pairs, a second on one and then at once a second on
the other; which is first alternates, so that a machine that becomes slower or faster meanwhile favours neither. The
one that is not measured is idle. Each is started by its own tests/python/running.py with its own models, since
options of `rampart dev` change between commits; both are measured by the working tree's load generator, which needs
nothing of a platform but its state.json.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from run import ROOT, Row, own_row, own_targets

# What a platform may take to stop, and then to be killed.
STOP_TIMEOUT_S = 90
TOLERANCE = 0.05
# Name, whether more is better, digits, and where a row has it.
FIGURES = [
    ("predictions/s", True, ",.0f", lambda row: row.figures["requests_per_s"]),
    ("p50 µs", False, ",.0f", lambda row: row.figures["p50_us"]),
    ("p99 µs", False, ",.0f", lambda row: row.figures["p99_us"]),
    ("CPU ms per 1,000", False, ",.1f", lambda row: row.cpu_ms_per_1000),
]
# Runs in a process of its own, because the modules of both trees have the same names. It ends when its input does.
STARTER = """
import sys
sys.path.insert(0, sys.argv[1])
from running import running_platform
with running_platform() as platform:
    print(platform.data, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Side:
    """A tree, and what its platform is started with."""

    name: str
    tree: Path
    environment: dict[str, str]

    @classmethod
    def of_reference(cls, folder: Path) -> Side:
        library, digest = (folder / "onnxruntime").read_text().split()
        own = {
            "RAMPART_BINARY": str(folder / "bin" / "rampart"),
            "RAMPART_ONNXRUNTIME": library,
            "RAMPART_ONNXRUNTIME_SHA256": digest,
        }
        return cls(folder.name[:12], folder / "tree", {**os.environ, **own})

    @contextmanager
    def started(self):
        """Yields the folder of a running platform's data."""
        command = [sys.executable, "-c", STARTER, self.tree / "tests" / "python"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=self.environment, **pipes) as starter:
            try:
                said = starter.stdout.readline()
                if not Path(said.strip(), "state.json").is_file():
                    sys.exit(f"the platform of {self.name} did not start:\n{said}{starter.stdout.read()}")
                yield Path(said.strip())
            finally:
                said = self.stop(starter)
        if starter.returncode:
            print(f"the platform of {self.name} did not stop as it should:\n{said}", file=sys.stderr)

    def stop(self, starter: subprocess.Popen) -> str:
        try:
            return starter.communicate(timeout=STOP_TIMEOUT_S)[0]  # which closes its input
        except subprocess.TimeoutExpired:
            starter.kill()  # and the kernel ends its platform then
            return f"it still ran after {STOP_TIMEOUT_S} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=Path, required=True, help="the load generator")
    parser.add_argument("--reference", type=Path, required=True, help="the folder that scripts/lib/reference.sh made")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--pairs", type=int, default=3, help="of measurements of each row in a round")
    parser.add_argument("--duration-s", type=int, default=1)
    parser.add_argument("--warm-up-s", type=int, default=1)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.pairs) < 1:
        parser.error("--rounds, --pairs: at least one")
    os.environ.pop("RAMPART_STATE", None)
    reference = Side.of_reference(arguments.reference)
    tree = Side("the working tree", ROOT, dict(os.environ))
    print(table(reference, measure(arguments, reference, tree)))


def measure(arguments, reference: Side, tree: Side) -> list[tuple[list[Row], list[Row]]]:
    """Of each pair, the rows of the reference and those of the working tree."""
    warmed_up = argparse.Namespace(**{**vars(arguments), "warm_up_s": 0})
    measured = []
    for number in range(arguments.rounds):
        sides = [reference, tree] if number % 2 == 0 else [tree, reference]
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        pairs = [{reference.name: [], tree.name: []} for _ in range(arguments.pairs)]
        with sides[0].started() as first, sides[1].started() as second:
            platforms = [(sides[0].name, first), (sides[1].name, second)]
            for target in own_targets(arguments):
                for index, rows in enumerate(pairs):
                    for name, data in platforms if index % 2 == 0 else reversed(platforms):
                        rows[name].append(own_row(warmed_up if index else arguments, data, *target))
        measured += [(rows[reference.name], rows[tree.name]) for rows in pairs]
    return measured


@dataclass(frozen=True)
class Spread:
    """The quartiles of some figures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: list[float]) -> Spread:
        # Of a single round there are no quartiles.
        return cls(*(statistics.quantiles(figures, method="inclusive") if len(figures) > 1 else figures * 3))

    def shown(self, digits: str) -> list[str]:
        return [f"{self.median:{digits}}", f"{self.low:{digits}} to {self.high:{digits}}"]


def table(reference: Side, pairs: list[tuple[list[Row], list[Row]]]) -> str:
    heads = ["what", "connections", "figure", reference.name, "quartiles", "working tree", "quartiles", "ratio"]
    heads += ["quartiles", ""]
    lines = [
        f"{os.cpu_count()} cores ({machine.machine()}), the working tree beside {reference.name}, {len(pairs)} pairs",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    outside = 0
    for index, row in enumerate(pairs[0][0]):
        for figure, more_is_better, digits, of in FIGURES:
            before = [of(rows[index]) for rows, _ in pairs]
            after = [of(rows[index]) for _, rows in pairs]
            # Of each pair, so that what the machine does from one to the next counts on both sides.
            ratio = Spread.of([new / old for old, new in zip(before, after, strict=True)])
            mark = ""
            if abs(ratio.median - 1) > TOLERANCE:
                mark = "outside, better" if (ratio.median > 1) == more_is_better else "**outside, worse**"
                outside += 1
            cells = [row.what, str(row.connections), figure]
            cells += Spread.of(before).shown(digits) + Spread.of(after).shown(digits) + ratio.shown(".3f")
            lines.append(f"| {' | '.join([*cells, mark])} |")
    ratio_is = "Ratio: working tree / reference, the median of the pairs' own ratios."
    return "\n".join([*lines, "", f"{ratio_is} Outside of {TOLERANCE:.0%}: {outside} of {len(lines) - 4} figures."])


if __name__ == "__main__":
    main()
