"""`rampart login`: a password that is not shown, a login that lasts, and its end."""

from __future__ import annotations

import json
import shutil
import stat
import termios
from pathlib import Path

import pytest

from command_line import CommandLine, Terminal

TOGETHER = 6


@pytest.fixture
def rampart(platform) -> CommandLine:
    return CommandLine(platform)


@pytest.fixture
def person(accounts):
    return accounts.person("viewer")


@pytest.fixture
def token(rampart, person, tmp_path) -> Path:
    """The token file of someone who is logged in."""
    return logged_in(rampart, person, tmp_path / "token")


def logged_in(rampart, person, token: Path) -> Path:
    password = person.credentials.password
    rampart.good("login", "--user", person.name, "--token-file", str(token), stdin=password + "\n")
    return token


def login_of(token: Path) -> Path:
    return token.with_name(token.name + ".login")


def make_due(token: Path) -> None:
    """As it is ten minutes later."""
    login = json.loads(login_of(token).read_text())
    login_of(token).write_text(json.dumps({**login, "renew_at": 0}))


def listed(rampart, token: Path, **options) -> list:
    return rampart.json("models", "list", "--token-file", str(token), **options)["models"]


def test_a_password_is_not_shown_and_what_is_written_is_private(rampart, person, tmp_path):
    token = tmp_path / "token"
    command = rampart.command("login", "--user", person.name, "--token-file", str(token))
    terminal = Terminal(command, rampart.environment("", None))
    terminal.until(f"password of {person.name}: ")
    terminal.until_unechoed()
    terminal.type(person.credentials.password + "\n")
    shown = terminal.rest()
    assert terminal.wait() == 0 and "is logged in" in shown, shown
    assert person.credentials.password not in shown
    for path in (token, login_of(token)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert person.credentials.password not in login_of(token).read_text()


def test_after_ctrl_c_the_terminal_shows_what_is_typed(rampart, person, tmp_path):
    command = rampart.command("login", "--user", person.name, "--token-file", str(tmp_path / "token"))
    terminal = Terminal(command, rampart.environment("", None))
    terminal.until("password of ")
    terminal.until_unechoed()
    terminal.type("\x03")
    terminal.rest()
    modes = termios.tcgetattr(terminal.descriptor)[3]
    assert terminal.wait() != 0 and modes & termios.ECHO and modes & termios.ICANON
    assert not (tmp_path / "token").exists()


def test_a_login_outlives_its_token(rampart, token):
    first = token.read_text()
    assert listed(rampart, token)
    assert token.read_text() == first, "a good token is not renewed"
    make_due(token)
    assert listed(rampart, token)
    second = token.read_text()
    assert second != first
    # A token that was revoked, or a clock that is behind: the platform's refusal is the reason to renew.
    token.write_text("no token")
    assert listed(rampart, token)
    assert token.read_text() not in ("no token", second)


def test_commands_at_once_do_not_end_the_login(rampart, token):
    make_due(token)
    running = [rampart.start("models", "list", "--token-file", str(token)) for _ in range(TOGETHER)]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    make_due(token)
    assert listed(rampart, token)


def test_two_machines_at_once_do_not_end_the_login(rampart, token, tmp_path):
    """Without a lock that both see, the gateway gives the same successor twice."""
    make_due(token)
    other = tmp_path / "other"
    other.mkdir()
    for path in (token, login_of(token)):
        shutil.copy(path, other)
    tokens = [token, other / token.name]
    running = [rampart.start("models", "list", "--token-file", str(path)) for path in tokens]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    refreshes = {json.loads(login_of(path).read_text())["refresh_token"] for path in tokens}
    assert len(refreshes) == 1


def test_logout_ends_the_login_for_good(rampart, rest, person, token, tmp_path):
    kept = tmp_path / "kept"
    shutil.copy(token, kept)
    shutil.copy(login_of(token), login_of(kept))
    make_due(token)
    assert rampart.good("logout", "--token-file", str(token)) == f"{person.name} is logged out\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.login"]
    make_due(kept)
    refused = rampart.run("models", "list", "--token-file", str(kept))
    assert refused.returncode == 1 and f"rampart login --user {person.name}" in refused.stderr, refused
    assert not login_of(kept).exists(), "it is not tried again and again"
    nothing = rampart.run("logout", "--token-file", str(token))
    assert nothing.returncode == 1 and "there is no login" in nothing.stderr


def test_a_refresh_token_goes_to_its_platform_alone(rampart, platform, token):
    make_due(token)
    before = login_of(token).read_text()
    refused = rampart.run("models", "list", "--token-file", str(token), "--front", "https://localhost:1")
    assert refused.returncode == 1 and f"a login at {platform.front}" in refused.stderr, refused
    assert login_of(token).read_text() == before
    login_of(token).chmod(0o644)
    exposed = rampart.run("models", "list", "--token-file", str(token))
    assert exposed.returncode == 1 and "chmod 600" in exposed.stderr


def test_a_login_that_cannot_be_kept_is_not_used_up(rampart, token):
    """The next refresh token has to be written: without a place for it the present one stays good."""
    make_due(token)
    lock = token.with_name(token.name + ".lock")
    lock.unlink()
    lock.mkdir()
    refused = rampart.run("models", "list", "--token-file", str(token))
    assert refused.returncode == 1 and "cannot write" in refused.stderr, refused
    lock.rmdir()
    assert listed(rampart, token)
