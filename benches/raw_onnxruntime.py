"""What the engine alone costs: one row after the other, one thread, no server.

    python raw_onnxruntime.py MODEL_FOLDER VERSION

Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

# Before the import: it would keep telemetry in ~/.cache and send it to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

WARM_UP_RUNS = 2_000
RUNS = 50_000


def main() -> None:
    folder, version = Path(sys.argv[1]), sys.argv[2]
    golden = json.loads((folder / version / "golden.json").read_text())["inputs"][0]
    row = np.array(golden["data"], np.float32).reshape(golden["shape"])[:1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / version / "model.onnx", options, providers=["CPUExecutionProvider"])
    inputs = {golden["name"]: row}
    for _ in range(WARM_UP_RUNS):
        session.run(None, inputs)

    durations_ns = np.empty(RUNS, np.int64)
    cpu_before, started = time.process_time(), time.perf_counter()
    for run in range(RUNS):
        before = time.perf_counter_ns()
        session.run(None, inputs)
        durations_ns[run] = time.perf_counter_ns() - before
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_before

    p50, p95, p99 = np.percentile(durations_ns, [50, 95, 99]) / 1000
    result = {
        "requests_per_s": round(RUNS / elapsed),
        "p50_us": round(p50, 1),
        "p95_us": round(p95, 1),
        "p99_us": round(p99, 1),
        "cpu_ms_per_1000": round(cpu / RUNS * 1e6, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
