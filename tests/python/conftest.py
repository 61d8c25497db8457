"""Fixtures: the platform, and unmodified clients of it."""

from __future__ import annotations

import httpx
import pytest
import tritonclient.grpc
import tritonclient.http

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
