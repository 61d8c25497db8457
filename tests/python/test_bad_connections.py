"""Attacks below the level of a request: the front door bounds each, and answers with an error where it can."""

from __future__ import annotations

import errno
import json
import resource
import socket
import ssl
import time

import pytest

from poll import until

CALLER = "analyst"
INFER = "/v2/models/breast-cancer-forest/infer"
# Far beyond every deadline of the front door: a test that waits this long has failed.
PATIENCE_S = 60
# A handshake has 3 s and a header 5; twice that is late even on a busy machine.
CLOSED_WITHIN_S = 10
# What the front door takes from one address, the few of the other clients here included.
CONNECTIONS_MAX = 1024
OTHERS_MAX = 20
# Files of this process besides those connections.
FILES_BESIDES = 200


@pytest.fixture
def connect(platform):
    """Opens TLS connections that speak HTTP/1.1, and closes them all afterwards."""
    opened = []

    def open_one() -> ssl.SSLSocket:
        plain = socket.create_connection(platform.address, timeout=PATIENCE_S)
        wrapped = platform.ssl_context().wrap_socket(plain, server_hostname=platform.address[0])
        opened.append(wrapped)
        return wrapped

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture(autouse=True)
def platform_still_answers(rest, platform):
    yield
    response = rest.get("/v2", headers=platform.bearer(CALLER))
    assert response.status_code == 200, response.text


def answer_to(connection: ssl.SSLSocket, request: bytes) -> bytes:
    """Everything up to the end of the connection, or of the answer's head if it stays open."""
    received = b""
    try:
        connection.sendall(request)
    except OSError:
        pass  # refused before it was all sent: the answer may still be there to read
    try:
        while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
            received += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    return received


def refusal_of(connection: ssl.SSLSocket, request: bytes, path: str, status: int) -> None:
    """Asserts that the answer has this status and the form of its route, and that the connection ends with it."""
    answer = answer_to(connection, request)
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    assert status_of(answer) == status, answer[:200]
    header, _, body = answer.partition(b"\r\n\r\n")
    body, subject = json.loads(body), "body" if status == 413 else "header"
    if path.startswith("/v2"):
        assert b"content-type: application/json" in header.lower()
        assert set(body) == {"error"} and subject in body["error"]
    else:
        assert b"content-type: application/problem+json" in header.lower()
        assert body["status"] == status and subject in body["detail"]


def status_of(answer: bytes) -> int | None:
    """None when the connection ended without an answer."""
    return int(answer.split(b" ", 2)[1]) if answer else None


def head(platform, *lines: str, method: str = "POST", path: str = INFER) -> bytes:
    token = platform.bearer(CALLER if path == INFER else "admin")["authorization"]
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "host: localhost", f"authorization: {token}", *lines, "", ""]
    ).encode()


# === too much ===


TWO_FORMS = pytest.mark.parametrize("path", [INFER, "/api/admin/users"])


@TWO_FORMS
def test_declared_body_beyond_the_limit_is_413_before_it_is_sent(connect, platform, path):
    refusal_of(connect(), head(platform, f"content-length: {10 * 2**30}", path=path), path, 413)


@TWO_FORMS
def test_chunked_body_beyond_the_limit_is_413(connect, platform, path):
    connection = connect()
    connection.sendall(head(platform, "transfer-encoding: chunked", path=path))
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    try:
        for _ in range(1024):
            connection.sendall(chunk)
    except OSError:
        pass  # it stopped reading, as it should
    else:
        pytest.fail("a gibibyte was read without an answer")
    refusal_of(connection, b"", path, 413)


@TWO_FORMS
def test_long_header_is_431(connect, platform, path):
    refusal_of(connect(), head(platform, f"x-long: {'a' * 262_144}", path=path), path, 431)


@TWO_FORMS
def test_many_headers_are_431(connect, platform, path):
    refusal_of(connect(), head(platform, *(f"x-{number}: a" for number in range(5000)), path=path), path, 431)


def test_long_path_is_refused(connect, platform):
    path = f"/v2/{'a' * 262_144}"
    refusal_of(connect(), head(platform, path=path), path, 431)


@pytest.fixture
def many_files():
    """Allows as many open files as the test needs, or fails: running out of them here would look like a refusal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + FILES_BESIDES
    assert hard == resource.RLIM_INFINITY or hard >= needed, f"ulimit -Hn is {hard}, this test needs {needed}"
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_connections_of_one_address_are_refused(many_files, platform, connect):
    """And when they are closed, the next one is served."""
    served = []
    while (connection := connect_and_ask(connect)) is not None:
        served.append(connection)
        assert len(served) <= CONNECTIONS_MAX, f"more than {CONNECTIONS_MAX} connections of one address were served"
    assert len(served) >= CONNECTIONS_MAX - OTHERS_MAX, f"only {len(served)} were served"

    for connection in served:
        connection.close()
    until("a connection is served after the others were closed", PATIENCE_S, lambda: connect_and_ask(connect))


def connect_and_ask(connect) -> ssl.SSLSocket | None:
    """A connection that has been served once and stays open, or None when it was not accepted."""
    try:
        connection = connect()
        answer = answer_to(connection, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    except OSError as error:
        assert error.errno not in (errno.EMFILE, errno.ENFILE), "it was this process that ran out of files"
        return None
    return connection if status_of(answer) == 200 else None


# === too slow ===


@pytest.mark.parametrize(
    "begun", [b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: "], ids=["silent", "trickling"]
)
def test_header_that_never_ends_is_closed_in_time(connect, begun):
    connection, started = connect(), time.monotonic()
    connection.settimeout(0.5)
    connection.sendall(begun)
    while time.monotonic() - started < CLOSED_WITHIN_S:
        try:
            received = connection.recv(4096)
        except TimeoutError:
            if begun:
                try:
                    connection.sendall(b"a")
                except OSError:
                    return
            continue
        except (ConnectionResetError, ssl.SSLError):
            return
        assert not received or status_of(received) == 408
        return
    pytest.fail(f"still open after {CLOSED_WITHIN_S} s")


def test_handshake_that_never_ends_is_closed_in_time(platform):
    with socket.create_connection(platform.address, timeout=CLOSED_WITHIN_S) as plain:
        plain.sendall(b"\x16\x03\x01")
        try:
            while plain.recv(4096):
                pass
        except ConnectionResetError:
            pass


# === ambiguous: two parsers could read it differently ===

AMBIGUOUS = {
    "length and chunked": ["content-length: 5", "transfer-encoding: chunked"],
    "two lengths": ["content-length: 5", "content-length: 6"],
    "length is a list": ["content-length: 5, 6"],
    "length with a sign": ["content-length: +5"],
    "negative length": ["content-length: -5"],
    "length in hex": ["content-length: 0x5"],
    "chunked spelt wrong": ["transfer-encoding: xchunked"],
    "chunked twice": ["transfer-encoding: chunked", "transfer-encoding: chunked"],
    "chunked not last": ["transfer-encoding: chunked, gzip"],
    "space before the colon": ["content-length : 5"],
    "folded line": ["x-folded: a", " b"],
    "two hosts": ["host: elsewhere"],
    "NUL in a value": ["x-nul: a\0b"],
    "no colon": ["nonsense"],
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_ambiguous_framing_is_refused(connect, platform, what):
    """And the connection ends, so that what follows cannot be taken for a second request."""
    connection = connect()
    smuggled = b"0\r\n\r\nGET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answer = answer_to(connection, head(platform, *AMBIGUOUS[what]) + smuggled)
    assert status_of(answer) in (400, 501, None), answer[:200]
    rest_of_it = b""
    try:
        while chunk := connection.recv(65536):
            rest_of_it += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    assert b"200 OK" not in answer + rest_of_it


def test_bare_line_feeds_are_refused(connect):
    answer = answer_to(connect(), b"GET /health HTTP/1.1\nhost: localhost\n\n")
    assert status_of(answer) in (400, None)


@pytest.mark.parametrize(
    "line", ["CONNECT /v2 HTTP/1.1", "GET /v2 HTTP/9.9", "GET", "\x16\x03\x01", "GET  /v2  HTTP/1.1"]
)
def test_nonsense_request_lines_are_refused(connect, line):
    answer = answer_to(connect(), f"{line}\r\nhost: localhost\r\n\r\n".encode())
    assert status_of(answer) in (400, 404, 405, 501, 505, None)


# === the wrong protocol ===


def send_plain_http(platform, *lines: str) -> bytes:
    with socket.create_connection(platform.address, timeout=PATIENCE_S) as plain:
        plain.sendall("\r\n".join(["GET /v2 HTTP/1.1", "Host: localhost", *lines, "", ""]).encode())
        received = b""
        try:
            while chunk := plain.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def test_plain_http_is_redirected_to_https(platform):
    answer = send_plain_http(platform)
    assert status_of(answer) == 308
    assert b"location: https://" in answer.lower()


def test_plain_http_with_a_token_is_400_and_says_that_the_token_is_exposed(platform):
    answer = send_plain_http(platform, "Authorization: Bearer hunter2")
    assert status_of(answer) == 400
    assert b"location:" not in answer.lower()
    assert b"expos" in answer.lower()


def test_older_tls_is_refused(platform):
    context = platform.ssl_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(platform.address, timeout=PATIENCE_S) as plain:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            context.wrap_socket(plain, server_hostname=platform.address[0])
