"""Requests with random bytes changed, in each form of the protocol: never a server error, and the next call works."""

from __future__ import annotations

import json
import random

import grpc as grpc_library
import pytest

from infer_request import CALLER, HEADER_LENGTH, INFER, ROW, binary_request, call, good, grpc_request, refused

pytestmark = pytest.mark.usefixtures("next_call_works")

# What a server says when the fault is its own.
SERVER_FAULTS = {
    grpc_library.StatusCode.INTERNAL,
    grpc_library.StatusCode.UNKNOWN,
    grpc_library.StatusCode.DATA_LOSS,
    grpc_library.StatusCode.UNAVAILABLE,
    grpc_library.StatusCode.DEADLINE_EXCEEDED,
}


def mutations(body: bytes, count: int, seed: int):
    """The body with some bytes changed, removed, doubled, or cut off: the same ones on every run."""
    chance = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant) or 1)
            match chance.randrange(4):
                case 0:
                    mutant[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del mutant[at : at + chance.randint(1, 8)]
                case 2:
                    mutant[at:at] = mutant[at : at + chance.randint(1, 8)]
                case 3:
                    mutant[at : at + 1] = chance.choice([b"-", b"0", b"{", b"]", b'"', b"\x00", b"e9", b"\xff"])
        yield bytes(mutant)


def test_mutated_json_never_is_a_server_error(rest, platform):
    for mutant in mutations(json.dumps(good()).encode(), count=300, seed=3):
        response = rest.post(INFER, content=mutant, headers=platform.bearer(CALLER))
        assert response.status_code in (200, 400), f"{response.status_code} {response.text[:200]} for {mutant!r}"
        if response.status_code == 400:
            refused(response, 400)


def test_mutated_binary_request_never_is_a_server_error(rest, platform):
    body, head_length = binary_request(ROW, len(ROW))
    for mutant in mutations(body, count=300, seed=4):
        headers = {**platform.bearer(CALLER), HEADER_LENGTH: str(head_length)}
        response = rest.post(INFER, content=mutant, headers=headers)
        assert response.status_code in (200, 400), f"{response.status_code} {response.text[:200]} for {mutant!r}"


def test_mutated_rpc_never_is_a_server_error(channel, platform):
    for mutant in mutations(grpc_request().SerializeToString(), count=300, seed=5):
        try:
            call(channel, platform, mutant)
        except grpc_library.RpcError as error:
            assert error.code() not in SERVER_FAULTS, f"{error.code()} {error.details()} for {mutant!r}"
