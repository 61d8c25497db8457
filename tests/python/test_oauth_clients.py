"""Logins by unmodified OAuth 2.0 clients: authlib, and requests-oauthlib over oauthlib.

They are given the platform's addresses, a name and a secret, and nothing that bends them to it.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient
from oauthlib.oauth2.rfc6749.errors import InvalidClientError, InvalidGrantError
from requests_oauthlib import OAuth2Session as OauthlibSession

ME = "/api/auth/me"
REVOKE = "/api/auth/revoke"
PASSWORD = "four unrelated words: größer"


@dataclass(frozen=True)
class Account:
    """What signs in, and with what."""

    name: str
    secret: str


@pytest.fixture(scope="module")
def metadata(platform):
    """What the authorization server says of itself, found and checked as RFC 8414 wants it."""
    session = trusting(platform, AuthlibSession())
    response = session.get(get_well_known_url(platform.front, external=True), withhold_token=True)
    assert response.status_code == 200, response.text
    found = AuthorizationServerMetadata(response.json())
    found.validate()
    assert found["issuer"] == platform.front
    return found


@pytest.fixture
def machine(rest, platform) -> Account:
    # A plus, which is a space to those who undo an encoding that was never done.
    name = f"robot+{uuid.uuid4()}"
    body = {"name": name, "kind": "machine", "roles": ["viewer"]}
    response = rest.post("/api/admin/users", json=body, headers=platform.bearer("admin"))
    assert response.status_code == 201, response.text
    return Account(name, response.json()["client_secret"])


@pytest.fixture
def person(rest, platform) -> Account:
    name = f"person-{uuid.uuid4()}"
    body = {"name": name, "kind": "person", "roles": ["analyst"], "password": PASSWORD}
    response = rest.post("/api/admin/users", json=body, headers=platform.bearer("admin"))
    assert response.status_code == 201, response.text
    return Account(name, PASSWORD)


def trusting(platform, session):
    """Trusts the platform's CA. Variables of the environment would go before what the session itself says."""
    session.trust_env = False
    session.verify = platform.ca_file
    return session


def authlib(platform, metadata, *arguments, **options) -> AuthlibSession:
    return trusting(platform, AuthlibSession(*arguments, token_endpoint=metadata["token_endpoint"], **options))


def oauthlib(platform, client, **options) -> OauthlibSession:
    return trusting(platform, OauthlibSession(client=client, **options))


def me(session, platform) -> dict:
    response = session.get(platform.front + ME)
    assert response.status_code == 200, response.text
    return response.json()


# === authlib ===


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_signs_a_machine_in(platform, metadata, machine, method):
    assert method in metadata["token_endpoint_auth_methods_supported"]
    session = authlib(platform, metadata, machine.name, machine.secret, token_endpoint_auth_method=method)
    token = session.fetch_token(grant_type="client_credentials")
    assert token["token_type"] == "Bearer"
    assert "refresh_token" not in token
    who = me(session, platform)
    assert (who["name"], who["kind"], who["roles"]) == (machine.name, "machine", ["viewer"])


def test_authlib_gets_a_machine_the_next_token_when_one_ends(platform, metadata, machine):
    session = authlib(platform, metadata, machine.name, machine.secret, grant_type="client_credentials")
    first = session.fetch_token()["access_token"]
    session.token["expires_at"] = 1
    assert me(session, platform)["name"] == machine.name
    assert session.token["access_token"] != first


@pytest.mark.parametrize("client", [("notebook", None), ("notebook", "a secret that is not asked for")])
def test_authlib_signs_a_person_in_and_refreshes(platform, metadata, person, client):
    updates = []
    session = authlib(platform, metadata, *client, update_token=lambda token, **old: updates.append((token, old)))
    first = session.fetch_token(username=person.name, password=person.secret)
    assert me(session, platform)["client_id"] == "notebook"
    second = session.refresh_token()
    assert second["refresh_token"] != first["refresh_token"]
    session.token["expires_at"] = 1
    assert me(session, platform)["name"] == person.name
    assert session.token["refresh_token"] not in (first["refresh_token"], second["refresh_token"])
    assert len(updates) == 2


def test_authlib_ends_a_login(platform, metadata, person):
    session = authlib(platform, metadata, "notebook")
    token = dict(session.fetch_token(username=person.name, password=person.secret))
    refresh_token = token["refresh_token"]
    # The endpoint wants the owner of the token and not its client, so that it is not announced as that of RFC 7009.
    assert "revocation_endpoint" not in metadata
    ended = session.revoke_token(
        platform.front + REVOKE, token=refresh_token, token_type_hint="refresh_token", auth=session.token_auth
    )
    assert ended.status_code == 200
    assert session.get(platform.front + ME).status_code == 401
    with pytest.raises(OAuthError, match="invalid_grant"):
        session.refresh_token(refresh_token=refresh_token)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_reads_why_it_is_refused(platform, metadata, machine, person, method):
    session = authlib(platform, metadata, machine.name, "wrong", token_endpoint_auth_method=method)
    with pytest.raises(OAuthError, match="invalid_client"):
        session.fetch_token(grant_type="client_credentials")
    with pytest.raises(OAuthError, match="invalid_grant"):
        session.fetch_token(grant_type="password", username=person.name, password="wrong")
    with pytest.raises(OAuthError, match="unsupported_grant_type"):
        session.fetch_token(grant_type="urn:ietf:params:oauth:grant-type:device_code")


def test_workers_that_share_a_login_refresh_at_once(platform, metadata, person):
    """Each has the same refresh token and finds its access token expired: all go on, and so does the login."""
    first = authlib(platform, metadata, "workers").fetch_token(username=person.name, password=person.secret)

    def work(_number):
        session = authlib(platform, metadata, "workers", token={**first, "expires_at": 1})
        assert me(session, platform)["name"] == person.name
        return session.token["refresh_token"]

    with ThreadPoolExecutor(8) as workers:
        successors = set(workers.map(work, range(8)))
    assert len(successors) == 1
    assert successors != {first["refresh_token"]}
    session = authlib(
        platform, metadata, "workers", token={**first, "expires_at": 1, "refresh_token": successors.pop()}
    )
    assert me(session, platform)["name"] == person.name


# === requests-oauthlib ===


@pytest.mark.parametrize("in_body", [False, True])
def test_oauthlib_signs_a_machine_in(platform, metadata, machine, in_body):
    session = oauthlib(platform, BackendApplicationClient(client_id=machine.name))
    secret = {"include_client_id": True} if in_body else {}
    session.fetch_token(metadata["token_endpoint"], client_secret=machine.secret, **secret)
    assert me(session, platform)["name"] == machine.name
    with pytest.raises(InvalidClientError):
        session.fetch_token(metadata["token_endpoint"], client_secret="wrong", **secret)


def test_oauthlib_signs_a_person_in_and_refreshes(platform, metadata, person):
    tokens = []
    session = oauthlib(
        platform,
        LegacyApplicationClient(client_id="notebook"),
        auto_refresh_url=metadata["token_endpoint"],
        token_updater=tokens.append,
    )
    first = session.fetch_token(metadata["token_endpoint"], username=person.name, password=person.secret)
    who = me(session, platform)
    assert (who["client_id"], who["kind"]) == ("notebook", "person")
    session.token = {**first, "expires_in": -1, "expires_at": 1}
    assert me(session, platform)["name"] == person.name
    assert [token["refresh_token"] != first["refresh_token"] for token in tokens] == [True]

    ended = session.post(platform.front + REVOKE, data={"token": tokens[0]["refresh_token"]})
    assert ended.status_code == 200
    with pytest.raises(InvalidGrantError):
        session.refresh_token(metadata["token_endpoint"], refresh_token=tokens[0]["refresh_token"])


# === what no client may get wrong without being told ===


def test_a_failed_basic_has_its_challenge_and_two_proofs_are_refused(rest, machine):
    grant = {"grant_type": "client_credentials"}
    refused = rest.post("/api/auth/token", data=grant, auth=(machine.name, "wrong"))
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert refused.headers["www-authenticate"].startswith('Basic realm="')
    both = {**grant, "client_id": machine.name, "client_secret": "another"}
    twice = rest.post("/api/auth/token", data=both, auth=(machine.name, machine.secret))
    assert (twice.status_code, twice.json()["error"]) == (400, "invalid_request")
    repeated = rest.post("/api/auth/token", data={"grant_type": ["client_credentials"] * 2})
    assert (repeated.status_code, repeated.json()["error"]) == (400, "invalid_request")
