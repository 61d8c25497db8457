"""Answers that come before the end of a long upload: unmodified clients read them, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest

CALLER = "analyst"
INFER = "/v2/models/breast-cancer-forest/infer"
# Both more than fits into all the buffers between; one over the limit of a body, and less than is read on.
LONG, TOO_LONG = 12 * 2**20, 24 * 2**20

# what, path, headers beside the token, length of the body, whether it is declared, status
EARLY = [
    ("a bad token", INFER, {"authorization": "Bearer nonsense"}, TOO_LONG, False, 401),
    ("no such route", "/nothing-here", {}, TOO_LONG, False, 404),
    ("no such model", "/v2/models/no-such-model/infer", {}, LONG, False, 404),
    ("no such method", "/v2/models/breast-cancer-forest", {}, LONG, False, 405),
    ("a declared length over the limit", INFER, {}, TOO_LONG, True, 413),
    ("over the limit on the way", INFER, {}, TOO_LONG, False, 413),
]
EACH = pytest.mark.parametrize(
    ("path", "headers", "length", "is_declared", "status"), [row[1:] for row in EARLY], ids=[row[0] for row in EARLY]
)


def upload(length):
    for _ in range(length // 2**16):
        yield b" " * 2**16


@EACH
@pytest.mark.parametrize("is_http2", [False, True], ids=["http1", "http2"])
def test_httpx_reads_an_early_answer(platform, path, headers, length, is_declared, status, is_http2):
    headers = {**platform.bearer(CALLER), **headers}
    if is_declared:
        headers["content-length"] = str(length)
    with httpx.Client(
        base_url=platform.front, verify=platform.ssl_context(), http1=not is_http2, http2=is_http2, timeout=60
    ) as client:
        response = client.post(path, content=upload(length), headers=headers)
    assert response.status_code == status, response.text
    assert response.http_version == ("HTTP/2" if is_http2 else "HTTP/1.1")
    assert response.json()


@EACH
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_reads_an_early_answer(platform, tmp_path, path, headers, length, is_declared, status, version):
    file = tmp_path / "body"
    file.write_bytes(b"".join(upload(length)))
    # Without `Expect` the body is sent at once, and from standard input without a length.
    sent = {**platform.bearer(CALLER), **headers, "expect": "", "content-type": "application/json"}
    arguments = ["curl", "--silent", "--show-error", version, "--cacert", platform.ca_file, "--max-time", "60"]
    arguments += [part for name, value in sent.items() for part in ("--header", f"{name}: {value}")]
    arguments += [
        "--request",
        "POST",
        "--upload-file",
        str(file) if is_declared else "-",
        "--write-out",
        "\n%{http_code}",
    ]
    with file.open("rb") as body:
        done = subprocess.run(
            [*arguments, platform.front + path], stdin=body, capture_output=True, text=True, timeout=90
        )
    answer, _, code = done.stdout.rpartition("\n")
    assert (done.returncode, code) == (0, str(status)), done.stderr
    assert json.loads(answer)
