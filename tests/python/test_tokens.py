"""Without a good token UNAUTHENTICATED, without the right PERMISSION_DENIED: as an unmodified tritonclient sees it.

That every route and RPC behaves so is the matrix test's matter; here it is shown end to end, with every kind of bad
token.
"""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import forge
from truth import truth

FOREST = "breast-cancer-forest"
CALLER = "analyst"
KINDS = [
    "missing", "not a token", "empty", "signature changed", "signature cut off", "claims changed", "expired",
    "not yet valid", "without an end", "signed by a foreign key", "signed with the passport key", "alg none",
    "alg none, signature kept", "HMAC with the public key", "for another audience", "from another issuer",
    "of another type", "under an unknown key id",
]  # fmt: skip


def infer(client, headers):
    library = tritonclient.grpc if isinstance(client, tritonclient.grpc.InferenceServerClient) else tritonclient.http
    features = truth(FOREST, "2").features[:1]
    tensor = library.InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    return client.infer(FOREST, [tensor], headers=headers)


# What a token is needed for, as tritonclient calls.
CALLS = {
    "list": lambda client, headers: client.get_model_repository_index(headers=headers),
    "server metadata": lambda client, headers: client.get_server_metadata(headers=headers),
    "model metadata": lambda client, headers: client.get_model_metadata(FOREST, headers=headers),
    "infer": infer,
    "load": lambda client, headers: client.load_model(FOREST, headers=headers),
}
UNAUTHENTICATED = {"http": "401", "grpc": "StatusCode.UNAUTHENTICATED"}
PERMISSION_DENIED = {"http": "403", "grpc": "StatusCode.PERMISSION_DENIED"}


@pytest.fixture(scope="module")
def bad_headers(platform):
    """By kind, what makes header dictionaries with a bad token."""
    tokens = forge.bad_tokens(platform.token(CALLER), platform.data)
    headers = {kind: {"authorization": f"Bearer {token}"} for kind, token in tokens.items()}
    headers["missing"] = {}
    assert sorted(headers) == sorted(KINDS)
    return headers


def test_control_the_same_claims_signed_again_are_accepted(http, grpc, platform):
    """Without this, every refusal below could have another reason than the one its name says."""
    token = forge.control(platform.token(CALLER), platform.data)
    for client in (http, grpc):
        answer = infer(client, {"authorization": f"Bearer {token}"})
        assert np.array_equal(answer.as_numpy("label"), truth(FOREST, "2").labels[:1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_bad_token_is_unauthenticated(request, bad_headers, protocol, call, kind):
    client = request.getfixturevalue(protocol)
    with pytest.raises(InferenceServerException) as refusal:
        CALLS[call](client, dict(bad_headers[kind]))
    assert refusal.value.status() == UNAUTHENTICATED[protocol]


@pytest.mark.parametrize(
    ("role", "call"),
    [("viewer", "infer"), ("admin", "infer"), ("auditor", "infer"), ("viewer", "load"), ("analyst", "load")],
)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_good_token_without_permission_is_denied(request, platform, protocol, role, call):
    client = request.getfixturevalue(protocol)
    assert client.get_model_metadata(FOREST, headers=platform.bearer(role)), "the control: the token itself is good"
    with pytest.raises(InferenceServerException) as refusal:
        CALLS[call](client, platform.bearer(role))
    assert refusal.value.status() == PERMISSION_DENIED[protocol]


@pytest.mark.parametrize("scheme", ["Basic {}", "bearer{}", "Bearer", "Token {}", "{}", "Bearer {} {}"])
def test_malformed_authorization_headers_are_unauthenticated(rest, platform, scheme):
    token = platform.token(CALLER)
    response = rest.get("/v2", headers={"authorization": scheme.format(token, token)})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["rampart-passport", "x-user-id", "x-auth-roles", "x-internal-user", "kubeflow-userid", "x-forwarded-user"],
)
def test_identity_headers_of_a_client_are_ignored(rest, platform, header):
    """Even the passport's own header, filled with a good token, authenticates no caller."""
    response = rest.get("/v2", headers={header: platform.token("admin")})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="rampart"'


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/v2", "application/json"), ("/api/admin/users", "application/problem+json")],
)
def test_refusals_have_the_form_of_their_route(rest, path, media_type):
    response = rest.get(path, headers={"authorization": "Bearer hunter2"})
    assert response.status_code == 401
    assert response.headers["content-type"].split(";")[0] == media_type
    assert response.headers["www-authenticate"].startswith("Bearer")
    body = response.json()
    if path.startswith("/api"):
        assert body["status"] == 401
    else:
        assert set(body) == {"error"}


def test_no_token_is_echoed(rest, platform):
    """A refused token may be a good one sent to the wrong place: it does not come back in an error."""
    token = platform.token(CALLER)[:-8] + "AAAAAAAA"
    for path in ("/v2", "/api/admin/users"):
        response = rest.get(path, headers={"authorization": f"Bearer {token}"})
        assert response.status_code == 401
        assert token[:20] not in response.text + str(response.headers)
