"""Runs MLServer with one example model, until it is told to stop.

    python serve.py MODEL_FOLDER VERSION

Prints one line of JSON once both protocols have answered the model's golden example correctly:
`{"model": ..., "rest": "http://127.0.0.1:PORT", "grpc": "127.0.0.1:PORT", "pid": ...}`. Stops MLServer on SIGTERM, on
Ctrl-C, or when its standard input ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
POLL_PERIOD_S = 0.1


def main() -> int:
    model_folder, version = Path(sys.argv[1]).resolve(), sys.argv[2]
    name = model_folder.name
    rest, grpc, metrics = free_ports(3)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="mlserver-") as folder:
        write_settings(Path(folder), name, model_folder / version / "model.onnx", version, (rest, grpc, metrics))
        process = start(folder)
        try:
            check(process, name, json.loads((model_folder / version / "golden.json").read_text()), rest, grpc)
            where = {
                "model": name,
                "rest": f"http://127.0.0.1:{rest}",
                "grpc": f"127.0.0.1:{grpc}",
                "pid": process.pid,
            }
            print(json.dumps(where), flush=True)
            wait_for_the_end(process)
        except KeyboardInterrupt:
            return 0
        except Failure as failure:
            print(f"{failure}; the last lines of its log:\n{tail(Path(folder) / 'log')}", file=sys.stderr)
            return 1
        finally:
            stop(process)
    return 0


class Failure(Exception):
    """MLServer did not do what it must before anything is compared with it."""


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def write_settings(folder: Path, name: str, model: Path, version: str, ports: tuple[int, int, int]) -> None:
    rest, grpc, metrics = ports
    settings = {
        "host": "127.0.0.1",
        "http_port": rest,
        "grpc_port": grpc,
        "metrics_port": metrics,
        # Without access logs, and in one process: both are its fastest setting for a model this small.
        "debug": False,
        "parallel_workers": int(os.environ.get("MLSERVER_WORKERS", "0")),
    }
    model_settings = {
        "name": name,
        "implementation": "onnx_model.OnnxModel",
        "parameters": {"uri": str(model), "version": version},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model_settings))


def start(folder: str) -> subprocess.Popen:
    here = str(Path(__file__).parent)
    log = open(Path(folder) / "log", "w")  # noqa: SIM115
    with log:
        return subprocess.Popen(
            [Path(sys.executable).with_name("mlserver"), "start", folder],
            env={**os.environ, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )


def check(process: subprocess.Popen, name: str, golden: dict, rest: int, grpc: int) -> None:
    """Waits until both protocols answer, and demands that they answer right."""
    clients = [
        (tritonclient.http, tritonclient.http.InferenceServerClient(f"127.0.0.1:{rest}")),
        (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc}")),
    ]
    deadline = time.monotonic() + READY_TIMEOUT_S
    for library, client in clients:
        while not is_ready(client, name):
            if process.poll() is not None:
                raise Failure(f"mlserver ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise Failure(f"mlserver was not ready after {READY_TIMEOUT_S} s")
            time.sleep(POLL_PERIOD_S)
        sent = golden["inputs"][0]
        tensor = library.InferInput(sent["name"], sent["shape"], sent["datatype"])
        values = np.array(sent["data"], np.float32).reshape(sent["shape"])
        # MLServer's REST knows no binary tensors.
        options = {"binary_data": False} if library is tritonclient.http else {}
        tensor.set_data_from_numpy(values, **options)
        outputs = [library.InferRequestedOutput(it["name"], **options) for it in golden["outputs"]]
        answer = client.infer(name, [tensor], outputs=outputs)
        for expected in golden["outputs"]:
            distance = np.abs(answer.as_numpy(expected["name"]).ravel() - np.array(expected["data"])).max()
            if distance > golden["tolerance"]:
                raise Failure(f"mlserver answers {expected['name']} {distance} away from the golden example")
        client.close()


def is_ready(client, name: str) -> bool:
    try:
        return client.is_model_ready(name)
    except Exception:  # each library has its own for "not listening yet"
        return False


def wait_for_the_end(process: subprocess.Popen) -> None:
    while process.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        if readable and not sys.stdin.buffer.read1():
            return
    raise Failure(f"mlserver ended by itself with {process.returncode}")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
