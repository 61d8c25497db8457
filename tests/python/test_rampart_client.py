"""rampart-client against the platform: logins that last, predictions by tensor, and errors."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import rampart_client
from accounts import LIFETIME_S
from poll import until
from programs import interpreter
from rampart_client import AsyncClient, Client, Password, RampartError, RefreshToken, Session, TokenFile
from recipes import RECIPES
from running import REPOSITORY
from truth import assert_equal, truth

FOREST = "breast-cancer-forest"
TOGETHER = 12


@pytest.fixture
def person(accounts):
    return accounts.person()


@pytest.fixture
def client(accounts):
    with Client(accounts.machine().session()) as client:
        yield client


# === a login ===


def test_many_calls_need_one_login(person):
    session = person.session()
    assert session.asked == [], "nothing is asked before it is needed"
    with Client(session) as client:
        for _ in range(3):
            assert {model.name for model in client.models()} == {recipe.name for recipe in RECIPES}
    assert session.asked == ["password"]


@pytest.mark.parametrize(("kind", "renewed_by"), [("person", "refresh_token"), ("machine", "client_credentials")])
@pytest.mark.parametrize("ahead_s", [LIFETIME_S * 0.7, LIFETIME_S * 2], ids=["late in its life", "after its end"])
def test_token_is_renewed_and_the_refresh_token_kept(accounts, kind, renewed_by, ahead_s):
    session = getattr(accounts, kind)().session()
    tokens = {session.token()}
    for _ in range(3):
        session.clock.ahead_s += ahead_s
        tokens.add(session.token())
        assert session.token() in tokens, "a renewed token is used"
    assert session.asked[1:] == [renewed_by] * 3
    assert len(tokens) == 4


def test_early_token_is_kept(person):
    session = person.session()
    first = session.token()
    session.clock.ahead_s = LIFETIME_S * 0.6
    assert session.token() == first
    assert session.asked == ["password"]


def test_revoked_token_is_renewed_once_and_the_call_answered(accounts, person):
    session = person.session()
    with Client(session) as client:
        accounts.revoke_token(session)
        assert client.models()
        assert client.models()
    assert session.asked == ["password", "refresh_token"]


def test_ended_login_falls_back_to_the_password(accounts, person):
    session = person.session()
    with Client(session) as client:
        assert client.models()
        accounts.revoke_everything_of(person, session.token())
        assert client.models()
    assert session.asked == ["password", "refresh_token", "password"]


def test_user_without_the_right_is_refused_without_a_new_login(accounts):
    session = accounts.person("viewer").session()
    with Client(session) as client, pytest.raises(RampartError) as refusal:
        client.infer(FOREST, {"input": truth(FOREST, "2").features[:1]})
    assert refusal.value.status == 403
    assert session.asked == ["password"]


def test_threads_share_one_login_and_one_renewal(accounts, person):
    session = person.session()
    barrier = threading.Barrier(TOGETHER)

    def ask(client):
        barrier.wait(30)
        return len(client.models())

    with Client(session) as client, ThreadPoolExecutor(TOGETHER) as pool:
        assert len(set(pool.map(lambda _: ask(client), range(TOGETHER)))) == 1
        assert session.asked == ["password"]
        accounts.revoke_token(session)
        assert len(set(pool.map(lambda _: ask(client), range(TOGETHER)))) == 1
    assert session.asked == ["password", "refresh_token"]


def test_tasks_share_one_login_and_one_renewal(accounts, person):
    session = person.session()

    async def both():
        async with AsyncClient(session) as client:
            await asyncio.gather(*(client.models() for _ in range(TOGETHER)))
            assert session.asked == ["password"]
            await asyncio.to_thread(accounts.revoke_token, session)
            await asyncio.gather(*(client.models() for _ in range(TOGETHER)))

    asyncio.run(both())
    assert session.asked == ["password", "refresh_token"]


def test_threads_that_wait_for_a_refused_login_are_refused_with_it(person):
    """Each one's own try would be a guess more, until the account has to wait."""
    session = person.session(auth=Password(person.name, "not the password"))
    started, ask = threading.Barrier(TOGETHER), session._ask

    def together(form):
        until("all wait for the login", 30, lambda: started.broken or len(asking) == TOGETHER)
        return ask(form)

    asking: list[int] = []
    session._ask = together

    def token(number):
        asking.append(number)
        with pytest.raises(RampartError) as refusal:
            session.token()
        return refusal.value.status

    with ThreadPoolExecutor(TOGETHER) as pool:
        assert set(pool.map(token, range(TOGETHER))) == {401}
    assert len(session.asked) < TOGETHER / 2


def test_child_of_a_fork_logs_in_anew(person):
    """Both going on with one refresh token would be a theft to the platform, which ends the login for both."""
    script = """
import os, sys
from rampart_client import Password, Session
name, password = sys.stdin.read().splitlines()
ahead = [0.0]
session = Session(auth=Password(name, password), clock=lambda: ahead[0])
session.token()
ahead[0] = 500.0
child = os.fork()
asked, ask = [], session._ask
session._ask = lambda form: asked.append(form["grant_type"]) or ask(form)
session.token()
expected = "refresh_token" if child else "password"
assert asked == [expected], asked
if child:
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
"""
    environment = {
        "PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src"),
        "RAMPART_FRONT": person.platform.front,
        "RAMPART_CA_FILE": person.platform.ca_file,
    }
    secret = person.credentials.password
    done = subprocess.run(
        [sys.executable, "-c", script], input=f"{person.name}\n{secret}\n", text=True, env=environment, timeout=60
    )
    assert done.returncode == 0


# === kept logins and token files ===


def test_refresh_token_in_a_file_is_taken_up_by_the_next_process(person, tmp_path):
    first = person.session()
    first.token()
    kept = tmp_path / "refresh.token"
    kept.write_text(f"{first._refresh_token}\n")
    seen = {kept.read_text().strip()}
    for _ in range(2):
        later = person.session(auth=RefreshToken(file=kept))
        with Client(later) as client:
            assert client.models()
        assert later.asked == ["refresh_token"]
        seen.add(kept.read_text())
        assert kept.stat().st_mode & 0o777 == 0o600
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == [kept], "no temporary file is left"


def test_ended_login_without_a_password_is_an_error(accounts, person):
    first = person.session()
    first.token()
    later = person.session(auth=RefreshToken(first._refresh_token))
    with Client(later) as client:
        assert client.models()
        accounts.revoke_everything_of(person, later.token())
        with pytest.raises(RampartError) as refusal:
            client.models()
    assert refusal.value.status == 401
    assert later.asked == ["refresh_token", "refresh_token"]


def test_token_file_is_read_again_when_its_token_is_refused(accounts, person, tmp_path):
    maker, path = person.session(), tmp_path / "access.token"
    path.write_text(maker.token() + "\n")
    with Client(person.session(auth=TokenFile(path))) as client:
        assert client.models()
        accounts.revoke_token(maker)
        with pytest.raises(RampartError) as refusal:
            client.models()
        assert refusal.value.status == 401
        path.write_text(maker.renew(maker.token()))
        assert client.models()


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "b\u00e4d", "control\x07"])
def test_file_without_a_token_is_an_error_that_does_not_print_it(content, tmp_path):
    (tmp_path / "token").write_text(content)
    for read in (TokenFile(tmp_path / "token").read, RefreshToken(file=tmp_path / "token").load):
        with pytest.raises(ValueError) as refusal:
            read()
        assert str(tmp_path / "token") in str(refusal.value)
        assert not content.strip() or content not in str(refusal.value)


def test_everything_can_come_from_the_environment(platform, person, monkeypatch, tmp_path):
    (tmp_path / "password").write_text(person.credentials.password + "\n")
    for name, value in {
        "RAMPART_FRONT": platform.front,
        "RAMPART_CA_FILE": platform.ca_file,
        "RAMPART_TOKEN_FILE": platform.token_files["viewer"],
    }.items():
        monkeypatch.setenv(name, value)
    with Client() as client:
        assert client.models()
        assert "TokenFile" in repr(client)
    monkeypatch.setenv("RAMPART_USER", person.name)
    monkeypatch.setenv("RAMPART_PASSWORD_FILE", str(tmp_path / "password"))
    with Client() as client:
        assert client.models()
        assert "Password" in repr(client)


def test_token_command_keeps_a_file_fresh_until_it_is_stopped(accounts, platform, tmp_path):
    machine, path = accounts.machine(), tmp_path / "access.token"
    secret = tmp_path / "secret"
    secret.write_text(machine.credentials.client_secret)
    # A life of a second instead of ten minutes: what is waited for is a renewed file.
    script = """
import runpy, sys
from rampart_client import session
accept = session.Session._accept
session.Session._accept = lambda self, answer, at: accept(self, {**answer, "expires_in": 1}, at)
sys.exit(runpy.run_module("rampart_client.token", run_name="__main__", alter_sys=True))
"""
    command = [
        sys.executable, "-c", script, "--write", str(path), "--front", platform.front, "--ca-file", platform.ca_file,
        "--client-id", machine.name, "--client-secret-file", str(secret),
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src")}
    with subprocess.Popen(command, env=environment) as process:
        try:
            first = until("a token is written", 30, lambda: path.exists() and path.read_text())
            second = until("it is renewed", 30, lambda: path.read_text() != first and path.read_text())
            assert path.stat().st_mode & 0o777 == 0o600
            with Client(machine.session(auth=TokenFile(path))) as client:
                assert client.models()
            until("it is renewed again", 30, lambda: path.read_text() != second)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_token_command_with_a_wrong_secret_ends(accounts, platform, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not the secret")
    command = [
        sys.executable, "-m", "rampart_client.token", "--write", str(tmp_path / "access.token"),
        "--front", platform.front, "--ca-file", platform.ca_file,
        "--client-id", accounts.machine().name, "--client-secret-file", str(secret),
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no token: 401: "), done.stderr
    assert list(tmp_path.iterdir()) == [secret]


# === secrets ===


def test_no_secret_is_printed(accounts, platform):
    machine = accounts.machine()
    wrong = Password(accounts.person().name, "hunter2-hunter2-hunter2")
    session = machine.session()
    token = session.token()
    shown = [repr(it) for it in (session, machine.credentials, wrong, RefreshToken("rt-secret"), Client(session))]
    with pytest.raises(RampartError) as refusal:
        machine.session(auth=wrong).token()
    nowhere = Session("https://localhost:1", ca_file=platform.ca_file, auth=wrong, retry_for_s=0)
    with pytest.raises(RampartError) as unanswered:
        nowhere.token()
    logged_in = Session(nowhere.url, ca_file=platform.ca_file, auth=TokenFile(platform.token_files["viewer"]))
    with Client(logged_in, retry_for_s=0) as client, pytest.raises(RampartError) as unanswered_call:
        client.models()
    errors = [refusal.value, unanswered.value, unanswered_call.value]
    assert [error.status for error in errors] == [401, None, None]
    for error in errors:
        assert error.__context__ is None, "httpx's exception has the request, and that the password"
        shown += [repr(error), str(error), *traceback.format_exception(error)]
    text = "\n".join(shown)
    assert machine.name in text, "the control: what is no secret is shown"
    for secret in (token, machine.credentials.client_secret, "hunter2-hunter2-hunter2", "rt-secret"):
        assert secret not in text


@pytest.mark.parametrize("url", ["http://localhost:8095", "https://", "https://user:pass@localhost", "localhost:8095"])
def test_front_door_is_https(url):
    with pytest.raises(ValueError, match="https"):
        Session(url, auth=Password("a", "b"))


def test_certificate_of_another_ca_is_not_believed(accounts):
    session = Session(accounts.person().session().url, auth=Password("a", "hunter2"))
    begun = time.monotonic()
    with pytest.raises(RampartError, match="CERTIFICATE_VERIFY_FAILED") as refusal:
        session.token()
    assert refusal.value.status is None
    assert time.monotonic() - begun < session._retry_for_s / 2, "it was tried again"


# === predictions by tensor ===


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_infer_equals_scikit_learn(client, recipe):
    for version in recipe.versions:
        expected = truth(recipe.name, version)
        answer = client.infer(recipe.name, {"input": expected.features}, version)
        assert_equal(expected, slice(None), answer["label"], answer["probabilities"])
        assert (answer.model, answer.version) == (recipe.name, version)
        assert answer["label"].dtype == np.int64 and answer["probabilities"].dtype == np.float32


def test_infer_returns_the_outputs_that_were_asked_for(client):
    expected = truth(FOREST, "2")
    answer = client.infer(FOREST, {"input": expected.features}, "champion", outputs=["label"])
    assert set(answer) == {"label"}
    assert np.array_equal(answer["label"], expected.labels)
    answer["label"][0] = 7  # an answer is the caller's own


def test_infer_of_many_tasks(accounts):
    expected = truth(FOREST, "2")

    async def infer():
        async with AsyncClient(accounts.machine().session()) as client:
            slices = [slice(row, row + 1 + row % 5) for row in range(TOGETHER)]
            asked = (client.infer(FOREST, {"input": expected.features[rows]}) for rows in slices)
            return zip(slices, await asyncio.gather(*asked), strict=True)

    for rows, answer in asyncio.run(infer()):
        assert_equal(expected, rows, answer["label"], answer["probabilities"])


def test_models_and_their_readiness(client):
    listed = {(model.name, model.version): model for model in client.models()}
    assert set(listed) == {(recipe.name, version) for recipe in RECIPES for version in recipe.versions}
    assert all(model.is_ready for model in listed.values())
    assert client.ready()
    assert client.ready(FOREST) and client.ready(FOREST, "champion") and client.ready(FOREST, 1)
    assert not client.ready("no-such-model") and not client.ready(FOREST, 99)


# === errors ===


@pytest.mark.parametrize(
    ("model", "version", "shape", "dtype", "status", "said"),
    [
        ("no-such-model", None, (1, 30), np.float32, 404, "no-such-model"),
        (FOREST, "99", (1, 30), np.float32, 404, "99"),
        (FOREST, None, (1, 29), np.float32, 400, "shape"),
        (FOREST, None, (1, 30), np.float64, 400, "FP64"),
        (f"{FOREST}/versions/1", None, (1, 30), np.float32, 404, ""),  # a name is a name, never a path
    ],
)
def test_refused_request_says_why(client, model, version, shape, dtype, status, said):
    with pytest.raises(RampartError) as refusal:
        client.infer(model, {"input": np.zeros(shape, dtype)}, version)
    assert refusal.value.status == status
    assert said in refusal.value.detail
    assert str(refusal.value).startswith(f"{status}: ")
    assert not refusal.value.may_be_repeated


def test_problem_has_its_field(person):
    session = person.session(auth=Password("not/a/name", ""))
    session._auth = type("Incomplete", (), {"form": lambda self: {"grant_type": "password", "username": "a"}})()
    with pytest.raises(RampartError) as refusal:
        session.token()
    assert refusal.value.status == 400
    assert [error.field for error in refusal.value.errors] == ["password"]


def test_platform_that_is_not_there_is_asked_again_for_a_while(platform, accounts):
    token_file = TokenFile(platform.token_files["viewer"])
    session = Session("https://localhost:1", ca_file=platform.ca_file, auth=token_file)
    begun = time.monotonic()
    with Client(session, retry_for_s=1.0) as client, pytest.raises(RampartError) as refusal:
        client.models()
    assert refusal.value.status is None
    assert 0.3 < time.monotonic() - begun < 10, "it is tried again, and not for ever"


def test_retry_after_is_kept_to(person):
    """After five wrong passwords an account has to wait: 1 s, and twice as long with each further failure."""

    def guess():
        with pytest.raises(RampartError) as refusal:
            person.session(auth=Password(person.name, "a guess"), retry_for_s=0).token()
        return refusal.value if refusal.value.status == 429 and refusal.value.retry_after > 1 else None

    refused = until("a guess has to wait for more than a second", 60, guess)
    patient, asked_at = person.session(), []
    ask = patient._ask
    patient._ask = lambda form: asked_at.append(time.monotonic()) or ask(form)
    patient.token()
    assert len(asked_at) > 1, "the control: the first try was refused"
    assert asked_at[1] - asked_at[0] >= refused.retry_after - 1, "the platform rounds down"
    assert all(later - earlier >= 1 for earlier, later in pairwise(asked_at))


# === the package ===


def test_version_is_that_of_the_workspace():
    [version] = re.findall(r'^version = "([^"]+)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    assert rampart_client.__version__ == version


README = (REPOSITORY / "clients" / "python" / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{len(example)} characters")
def test_examples_of_the_readme_run(example, platform, person, tmp_path):
    python = interpreter("kserve") if "kserve" in example else sys.executable
    (tmp_path / "alice.password").write_text(person.credentials.password)
    environment = {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src"),
        "RAMPART_FRONT": platform.front,
        "RAMPART_CA_FILE": platform.ca_file,
        "RAMPART_TOKEN_FILE": platform.token_files["analyst"],
    }
    script = example.replace('"alice"', repr(person.name))
    done = subprocess.run(
        [python, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or "print" not in example
