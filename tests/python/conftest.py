"""Fixtures: the platform, and unmodified clients of it."""

from __future__ import annotations

import grpc as grpc_library
import httpx
import pytest
import tritonclient.grpc
import tritonclient.http

from accounts import accounts_for_a_test
from command_line import ConnectProxy
from infer_request import CALLER, INFER, good
from running import Platform, running_platform


@pytest.fixture(scope="session")
def platform() -> Platform:
    with running_platform() as platform:
        yield platform


@pytest.fixture
def http(platform: Platform):
    """tritonclient over HTTP/1.1 and TLS."""
    with tritonclient.http.InferenceServerClient(
        platform.authority, ssl=True, ssl_context_factory=platform.ssl_context
    ) as client:
        yield client


@pytest.fixture
def grpc(platform: Platform):
    """tritonclient over gRPC and TLS."""
    with tritonclient.grpc.InferenceServerClient(
        platform.authority, ssl=True, root_certificates=platform.ca_file
    ) as client:
        yield client


@pytest.fixture
def rest(platform: Platform):
    """A general HTTP client, for what tritonclient would never send."""
    with httpx.Client(base_url=platform.front, verify=platform.ssl_context(), timeout=30) as client:
        yield client


@pytest.fixture
def channel(platform):
    with open(platform.ca_file, "rb") as ca_file:
        credentials = grpc_library.ssl_channel_credentials(ca_file.read())
    with grpc_library.secure_channel(platform.authority, credentials) as channel:
        yield channel


@pytest.fixture
def accounts(rest, platform):
    """Makes users that are gone after the test."""
    with accounts_for_a_test(rest, platform) as accounts:
        yield accounts


@pytest.fixture
def connect_proxy():
    proxy = ConnectProxy()
    yield proxy
    proxy.close()


@pytest.fixture
def next_call_works(rest, platform):
    """Whatever a test sent, the platform behind it goes on."""
    yield
    response = rest.post(INFER, json=good(), headers=platform.bearer(CALLER))
    assert response.status_code == 200, response.text
