"""Clients of other makers, kept logged in by rampart-client: httpx, requests, tritonclient, gRPC, MLflow's provider."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import tomllib

import grpc as grpc_library
import httpx
import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from infer_request import FOREST, INFER, good
from rampart_client import RampartError, Session
from rampart_client.auth import HttpxAuth, RequestsAuth, TritonAioAuth, TritonAuth, grpc_credentials
from running import REPOSITORY
from truth import assert_equal, truth


@pytest.fixture
def session(accounts):
    """Of a person: what renews it is its refresh token."""
    return accounts.person().session()


# === httpx ===


def test_httpx_sends_a_refused_request_again(accounts, session):
    with httpx.Client(base_url=session.url, auth=HttpxAuth(session), verify=session.ssl_context()) as http:
        assert http.post(INFER, json=good()).status_code == 200
        accounts.revoke_token(session)
        assert http.post(INFER, json=good()).status_code == 200
    assert session.asked == ["password", "refresh_token"]


def test_httpx_sends_a_streamed_body_once(accounts, session):
    """It is gone after the first time. The answer is that of the platform, and the next request is answered."""
    with httpx.Client(base_url=session.url, auth=HttpxAuth(session), verify=session.ssl_context()) as http:
        accounts.revoke_token(session)
        assert http.post(INFER, content=iter([json.dumps(good()).encode()])).status_code == 401
        assert http.post(INFER, content=iter([json.dumps(good()).encode()])).status_code == 200
    assert session.asked == ["password", "refresh_token"]


def test_httpx_of_asyncio_sends_a_refused_request_again(accounts, session):
    async def ask():
        async with httpx.AsyncClient(
            base_url=session.url, auth=HttpxAuth(session), verify=session.ssl_context()
        ) as http:
            assert (await http.post(INFER, json=good())).status_code == 200
            await asyncio.to_thread(accounts.revoke_token, session)
            assert (await http.post(INFER, json=good())).status_code == 200

    asyncio.run(ask())
    assert session.asked == ["password", "refresh_token"]


# === requests ===


@pytest.mark.parametrize("body", ["bytes", "file", "file from its middle"])
def test_requests_sends_a_refused_request_again(accounts, session, body):
    content = json.dumps(good()).encode()
    data = {"bytes": content, "file": io.BytesIO(content), "file from its middle": io.BytesIO(b"1234" + content)}[body]
    if body == "file from its middle":
        data.seek(4)
    accounts.revoke_token(session)
    response = requests.post(session.url + INFER, data=data, auth=RequestsAuth(session), verify=session.ca_file)
    assert response.status_code == 200, response.text
    assert [earlier.status_code for earlier in response.history] == [401]
    assert session.asked == ["password", "refresh_token"]


def test_requests_of_a_connection_pool(accounts, session):
    with requests.Session() as http:
        http.trust_env = False  # REQUESTS_CA_BUNDLE goes before a session's own CA
        http.auth, http.verify = RequestsAuth(session), session.ca_file
        for _ in range(3):
            assert http.post(session.url + INFER, json=good()).status_code == 200
            accounts.revoke_token(session)
        assert http.get(session.url + "/v2").status_code == 200
    assert session.asked == ["password", *3 * ["refresh_token"]]


@pytest.mark.parametrize("send", ["httpx", "requests"])
@pytest.mark.parametrize("url", ["https://example.org/v2", "http://localhost/v2", "https://localhost.example.org/"])
def test_token_is_sent_to_the_platform_alone(session, send, url):
    get, auth = {"httpx": (httpx.get, HttpxAuth(session)), "requests": (requests.get, RequestsAuth(session))}[send]
    with pytest.raises(RampartError, match="no token is sent to"):
        get(url, auth=auth)
    assert session.asked == [], "not even a login"


# === tritonclient ===


def test_tritonclient_over_http(http, session):
    http.register_plugin(TritonAuth(session))
    _infer_and_renew(http, tritonclient.http, session)
    mine = {"x-mine": "1"}
    http.get_server_metadata(headers=mine)
    assert mine == {"x-mine": "1"}, "a dictionary of the caller stays as it is"


def test_tritonclient_over_grpc(grpc, session):
    grpc.register_plugin(TritonAuth(session))
    _infer_and_renew(grpc, tritonclient.grpc, session)


def test_tritonclient_with_credentials(session):
    with tritonclient.grpc.InferenceServerClient(
        session.authority, ssl=True, creds=grpc_credentials(session)
    ) as client:
        _infer_and_renew(client, tritonclient.grpc, session)


def test_tritonclient_after_a_revocation(accounts, http, session):
    http.register_plugin(TritonAuth(session))
    revoked = accounts.revoke_token(session)
    with pytest.raises(InferenceServerException) as refusal:
        http.get_server_metadata()
    assert refusal.value.status() == "401"
    session.renew(revoked)
    assert http.get_server_metadata()["name"] == "rampart"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_of_asyncio(platform, session, protocol):
    library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    options = {
        "http": {"ssl": True, "ssl_context": session.ssl_context()},
        "grpc": {"ssl": True, "root_certificates": session.ca_file},
    }[protocol]
    expected = truth(FOREST, "2")

    async def ask():
        await session.token_async()
        async with library.aio.InferenceServerClient(session.authority, **options) as client:
            client.register_plugin(TritonAioAuth(session))
            first = session.token_at_once()
            session.clock.ahead_s = 500
            answer = await client.infer(FOREST, [_tensor(library, expected.features)])
            assert_equal(expected, slice(None), answer.as_numpy("label"), answer.as_numpy("probabilities"))
            # Renewed beside it.
            while session.token_at_once() == first:
                await asyncio.sleep(0.01)
            await client.infer(FOREST, [_tensor(library, expected.features)])

    asyncio.run(asyncio.wait_for(ask(), 60))
    assert session.asked == ["password", "refresh_token"]


# === gRPC ===


def test_stubs_of_grpc_and_of_its_asyncio(session):
    request = service_pb2.ModelMetadataRequest(name=FOREST)
    with grpc_library.secure_channel(session.authority, grpc_credentials(session)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelMetadata(request, timeout=30).name == FOREST
        session.clock.ahead_s += 500
        assert stub.ModelMetadata(request, timeout=30).name == FOREST

    async def ask():
        async with grpc_library.aio.secure_channel(session.authority, grpc_credentials(session)) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return (await stub.ModelMetadata(request, timeout=30)).name

    session.clock.ahead_s += 500
    assert asyncio.run(ask()) == FOREST
    assert session.asked == ["password", "refresh_token", "refresh_token"]


# === MLflow ===


def test_mlflow_provider_is_one_login_for_all_requests(accounts, platform, monkeypatch, tmp_path):
    """As MLflow does: it asks the provider that the entry point names for each request anew."""
    machine, secret = accounts.machine(), tmp_path / "secret"
    secret.write_text(machine.credentials.client_secret)
    for name, value in {
        "MLFLOW_TRACKING_URI": platform.front,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": platform.ca_file,
        "RAMPART_CLIENT_ID": machine.name,
        "RAMPART_CLIENT_SECRET_FILE": str(secret),
    }.items():
        monkeypatch.setenv(name, value)
    asked, ask = [], Session._ask
    monkeypatch.setattr(Session, "_ask", lambda self, form: asked.append(form["grant_type"]) or ask(self, form))

    project = tomllib.loads((REPOSITORY / "clients" / "python" / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["mlflow.request_auth_provider"]["rampart"].partition(":")
    provider = getattr(importlib.import_module(module), name)()
    assert provider.get_name() == "rampart"
    for _ in range(3):
        response = requests.get(f"{platform.front}/v2", auth=provider.get_auth(), verify=platform.ca_file)
        assert response.status_code == 200, response.text
    accounts.revoke_everything_of(machine, response.request.headers["Authorization"].removeprefix("Bearer "))
    response = requests.get(f"{platform.front}/v2", auth=provider.get_auth(), verify=platform.ca_file)
    assert response.status_code == 200, response.text
    assert asked == ["client_credentials", "client_credentials"]


def _infer_and_renew(client, library, session) -> None:
    """Answers before and after the end of the token; the second is another one."""
    expected = truth(FOREST, "2")
    for _ in range(2):
        answer = client.infer(FOREST, [_tensor(library, expected.features)])
        assert_equal(expected, slice(None), answer.as_numpy("label"), answer.as_numpy("probabilities"))
        session.clock.ahead_s += 700
    assert session.asked == ["password", "refresh_token"]


def _tensor(library, features: np.ndarray):
    tensor = library.InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    return tensor
