"""`rampart` against a running platform: what it prints, how it ends, and what it must never do."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from command_line import CommandLine
from poll import until
from running import REPOSITORY

MODEL = "digits-mlp"
TIMEOUT_S = 60


@pytest.fixture
def rampart(platform) -> CommandLine:
    return CommandLine(platform)


@pytest.fixture
def new_user(rampart):
    """A name that is free, whose user is gone after the test."""
    name = f"line-{uuid.uuid4().hex[:12]}"
    yield name
    if name in rampart.user_names():
        rampart.good("users", "delete", name)


# === names are names ===


def test_a_model_name_is_one_segment_of_the_path(rampart):
    for name in (f"{MODEL}/unload#", f"{MODEL}/unload?", "..", "", f"x/../{MODEL}"):
        refused = rampart.run("models", "load", name)
        assert refused.returncode == 1 and refused.stdout == "", refused
    states = {model["state"] for model in rampart.json("models", "list")["models"] if model["name"] == MODEL}
    assert states == {"READY"}, "loading one model must not unload another"


def test_a_set_with_more_in_its_name_is_not_verified(rampart):
    name = rampart.good("backup", "create").strip()
    for wrong in (f"{name}/verify#", f"{name}?", f"x/../{name}", ".."):
        refused = rampart.run("backup", "verify", wrong)
        assert refused.returncode == 2 and refused.stdout.startswith("NOT VERIFIED"), refused
    assert rampart.good("backup", "verify", name) == f"VALID {name}\n"
    assert rampart.json("backup", "verify", name) == {"set": name, "verdict": "VALID", "why": ""}


def test_a_user_name_is_only_compared(rampart):
    for name in ("admin/revoke#", "../users", ""):
        refused = rampart.run("users", "delete", name)
        assert refused.returncode == 1 and "there is no user" in refused.stderr, refused


def test_a_front_door_with_a_query_is_refused(rampart, platform):
    refused = rampart.run("status", "--front", f"{platform.front}/?x=")
    assert refused.returncode == 1 and "https://HOST:PORT" in refused.stderr, refused


# === what could not be written ===


@pytest.mark.parametrize(
    "arguments", [["status"], ["users", "list", "--json"], ["--help"], ["--version"], ["completions", "bash"], ["man"]]
)
def test_a_failed_write_is_a_failure_and_a_closed_pipe_is_none(rampart, arguments):
    with open("/dev/full", "w") as full:
        failed = rampart.run(*arguments, stdout=full)
    assert failed.returncode == 1 and "cannot write to standard output" in failed.stderr, failed
    with closed_pipe() as pipe:
        ended = rampart.run(*arguments, stdout=pipe)
    assert ended.returncode == 0 and ended.stderr == "", ended


def test_a_closed_pipe_changes_no_verdict(rampart):
    with closed_pipe() as pipe:
        assert rampart.run("backup", "verify", "no-such-set", stdout=pipe).returncode == 2


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("where", ["full", "closed"])
def test_a_secret_that_was_not_shown_is_of_no_use(rampart, new_user, where, options):
    with open("/dev/full", "w") if where == "full" else closed_pipe() as nowhere:
        failed = rampart.run("users", "create", new_user, "--role", "viewer", *options, stdout=nowhere)
    assert failed.returncode == 1 and "removed again" in failed.stderr, failed
    assert new_user not in rampart.user_names()


def test_a_new_secret_that_was_not_shown_is_revoked(rampart, new_user, rest):
    secret = rampart.good("users", "create", new_user, "--role", "viewer").strip()
    assert can_sign_in(rest, new_user, secret)
    other = rampart.good("users", "change", new_user, "--new-secret").strip()
    assert can_sign_in(rest, new_user, other) and not can_sign_in(rest, new_user, secret)
    before = rampart.user(new_user)["updated_at"]
    with open("/dev/full", "w") as full:
        failed = rampart.run("users", "change", new_user, "--new-secret", stdout=full)
    assert failed.returncode == 1 and "was revoked" in failed.stderr, failed
    assert not can_sign_in(rest, new_user, other) and rampart.user(new_user)["updated_at"] > before


# === users and audit ===


def test_users_are_changed_and_what_is_not_named_stays(rampart, new_user, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("the first password of a test\n")
    new.write_text("the second password of a test\n")
    rampart.good("users", "create", new_user, "--role", "viewer", "--password-file", str(old))
    changed = rampart.json("users", "change", new_user, "--add-role", "analyst", "--remove-role", "viewer")
    assert changed["roles"] == ["analyst"] and not changed["disabled"]
    assert rampart.good("users", "change", new_user, "--role", "auditor", "--tenant", "other").split() == [
        new_user, "person", "other", "auditor",
    ]  # fmt: skip
    rampart.good("users", "change", new_user, "--password", stdin=new.read_text())
    token = tmp_path / "token"
    login = ["login", "--user", new_user, "--token-file", str(token), "--password-file"]
    assert "401" in rampart.run(*login, str(old)).stderr
    rampart.good(*login, str(new))
    assert rampart.good("users", "change", new_user.upper(), "--disable").split()[-1] == "disabled"
    assert rampart.run(*login, str(new)).returncode == 1
    rampart.good("users", "change", new_user, "--enable")
    rampart.good(*login, str(new))
    for wrong in ([], ["--enable", "--disable"]):
        assert rampart.run("users", "change", new_user, *wrong).returncode == 2


def test_what_another_has_changed_is_not_overwritten(rampart, new_user, rest, platform):
    rampart.good("users", "create", new_user, "--role", "viewer", "--password", stdin="a password of this test\n")
    path = f"/api/admin/users/{rampart.user(new_user)['id']}"

    def reads() -> int:
        records = rest.get("/api/admin/audit", params={"limit": 1000}, headers=platform.bearer("auditor")).json()
        return sum('"event":"users.read"' in record["record"] for record in records["records"])

    before = reads()
    waiting = rampart.start("users", "change", new_user, "--add-role", "analyst", "--password")
    # It lists the users and reads the one, and then waits for the password.
    until("the user was read", TIMEOUT_S, lambda: reads() >= before + 2)
    assert rest.patch(path, json={"roles": ["auditor"]}, headers=platform.bearer("admin")).is_success
    _, said = waiting.communicate("another password of this test\n", timeout=TIMEOUT_S)
    assert waiting.returncode == 1 and "changed by another meanwhile" in said, said
    assert rampart.user(new_user)["roles"] == ["auditor"]


def test_the_audit_log_is_filtered_and_followed_to_a_bound(rampart, new_user):
    rampart.good("users", "create", new_user, "--role", "viewer")
    id_of_user = rampart.user(new_user)["id"]
    found = rampart.json("audit", "--event", "user.", "--actor", "ADMIN", "--since", "10m", role="admin")["records"]
    record = next(record for record in found if record["entry"].get("details", {}).get("name") == new_user)
    assert record["entry"]["event"] == "user.create" and json.loads(record["record"]) == record["entry"]
    assert {record["entry"]["event"].split(".")[0] for record in found} == {"user"}
    rampart.good("users", "change", new_user, "--role", "auditor")
    changed = rampart.json("audit", "--event", "user.change", "--resource", f"user:{id_of_user}")["records"]
    assert [record["entry"]["details"]["roles"]["to"] for record in changed] == [["auditor"]]
    words = rampart.good("audit", "--resource", f"user:{id_of_user}", "--limit", "1").split()
    assert words[1:3] == ["user.change", "success"] and words[4] == f"user:{id_of_user}" and len(words) == 7
    cut = rampart.run("audit", "--search", "1", "--event", "user.create", "--outcome", "denied")
    assert cut.returncode == 0 and cut.stdout == "" and "the newest 1 records were searched" in cut.stderr, cut
    assert len(rampart.json("audit", "--limit", "1100", "--search", "1100")["records"]) <= 1100
    assert rampart.json("audit", "--until", "2020-01-01", "--search", "10")["records"] == []
    assert rampart.run("audit", "--since", "yesterday").returncode == 2


# === which platform ===


def test_the_state_of_rampart_dev_is_all_that_a_command_needs(rampart):
    assert f"{MODEL} " in rampart.good("models", "list")
    assert rampart.good("models", "unload", MODEL) == f"{MODEL}: unloaded\n"
    assert rampart.json("models", "load", MODEL) == {"model": MODEL, "done": "loaded"}
    assert "admin " in rampart.good("users", "list")
    assert rampart.json("backup", "create")["made"] is True


def test_what_is_given_goes_before_the_state_and_its_tokens_go_to_no_other(rampart, platform):
    refused = rampart.run("users", "list", "--token-file", platform.token_files["viewer"])
    assert refused.returncode == 1 and "403" in refused.stderr
    refused = rampart.run("users", "list", "--front", "https://localhost:1")
    assert refused.returncode == 1 and "--token-file" in refused.stderr, refused
    # What is given whole needs no state, not even one that can be read.
    given = ["--front", platform.front, "--ca-file", platform.ca_file, "--token-file", platform.token_files["viewer"]]
    assert rampart.run("status", *given, "--state", "/nonexistent").returncode == 0
    missing = rampart.run("users", "list", state=None)
    assert missing.returncode == 1 and "--ca-file" in missing.stderr and "--state" in missing.stderr
    gone = rampart.run("users", "list", "--state", "/nonexistent")
    assert gone.returncode == 1 and "is `rampart dev` running" in gone.stderr


def test_proxies_of_the_environment_count_only_with_the_option(rampart, connect_proxy):
    names = {name: connect_proxy.url for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")}
    assert rampart.run("status", environment=names).returncode == 0 and connect_proxy.asked == []
    assert rampart.run("status", "--proxy-from-env", environment=names).returncode == 0
    assert connect_proxy.asked == [f"CONNECT {rampart.platform.authority} HTTP/1.1"]


# === what is printed ===


def test_the_status_is_watched_until_its_reader_goes(rampart):
    watching = rampart.start("status", "--watch", "1", "--json")
    documents = [json.loads(watching.stdout.readline()) for _ in range(2)]
    watching.stdout.close()
    assert watching.wait(TIMEOUT_S) == 0
    for document in documents:
        assert document["healthy"] and {"pool", "name", "state", "since", "why"} == set(document["replicas"][0])


def test_lists_are_tables_on_a_terminal_and_lines_elsewhere(rampart):
    on_terminal = rampart.on_a_terminal("users", "list")
    assert on_terminal.splitlines()[0].split() == ["NAME", "KIND", "TENANT", "ROLES", "DISABLED"]
    assert rampart.good("users", "list").splitlines()[0].split()[0] != "NAME"
    starts = {line.index("person" if "person" in line else "machine") for line in on_terminal.splitlines()[1:]}
    assert len(starts) == 1, on_terminal


def test_json_has_the_members_that_are_documented(rampart, new_user):
    made = rampart.json("users", "create", new_user, "--role", "viewer")
    user = {"id", "name", "kind", "tenant", "roles", "disabled", "created_at", "updated_at"}
    assert set(made) == user | {"client_secret"}
    assert new_user in [user["name"] for user in rampart.json("users", "list")["users"]]
    assert {"name", "version", "state"} <= set(rampart.json("models", "list")["models"][0])
    assert rampart.json("users", "revoke", new_user) == {"user": new_user, "revoked": True}
    assert rampart.json("users", "delete", new_user) == {"user": new_user, "removed": True}
    example = REPOSITORY / "examples" / "models" / MODEL
    checked = {"path": str(example), "can_be_served": True, "findings": []}
    assert rampart.json("models", "check", str(example)) == checked
    refused = rampart.run("backup", "verify", "no-such-set", "--json")
    assert refused.returncode == 2 and json.loads(refused.stdout)["verdict"] == "NOT VERIFIED"


def test_a_file_that_is_no_ca_is_named(rampart):
    for nothing in ("/dev/null", "/dev/zero"):
        refused = rampart.run("status", "--ca-file", nothing)
        assert refused.returncode == 1 and nothing in refused.stderr, refused
        assert "is not the file" in refused.stderr or "larger than" in refused.stderr, refused


def test_exit_codes_are_part_of_the_help(rampart):
    assert "EXIT CODES" in rampart.good("--help")
    assert rampart.run("status", "--no-such-option").returncode == 2
    assert rampart.run("no-such-command").returncode == 2


def test_completions_are_scripts_of_their_shells(rampart, tmp_path):
    for shell in ("bash", "zsh", "fish"):
        script = tmp_path / shell
        script.write_text(rampart.good("completions", shell))
        assert "audit" in script.read_text()
        if shell_there(shell):
            subprocess.run([shell, "-n", str(script)], check=True)
    completed = subprocess.run(
        ["bash", "-c", f'source {tmp_path / "bash"}; COMP_WORDS=(rampart us); COMP_CWORD=1; '
         '_rampart rampart us rampart; echo "${COMPREPLY[@]}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout == "users\n"


def test_there_is_a_manual_page_for_every_command(rampart, tmp_path):
    rampart.good("man", str(tmp_path / "man1"))
    pages = {page.name for page in (tmp_path / "man1").iterdir()}
    assert {"rampart.1", "rampart-users-change.1", "rampart-models-add.1", "rampart-audit.1"} <= pages
    assert ".TH" in rampart.good("man")


def can_sign_in(rest, name: str, secret: str) -> bool:
    grant = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
    return rest.post("/api/auth/token", data=grant).is_success


def closed_pipe():
    """A pipe that has no reader any more, to be written into."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def shell_there(shell: str) -> bool:
    return any((Path(folder) / shell).exists() for folder in os.environ["PATH"].split(":"))


# === backups ===


def test_a_set_is_made_and_proved_by_one_command(rampart):
    proved = rampart.json("backup", "create", "--verify")
    name = proved["set"]
    assert proved == {"set": name, "verdict": "VALID", "why": ""}
    runs = rampart.json("backup", "list", "--set", name)["runs"]
    assert [(run["kind"], run["state"]) for run in runs] == [("verify", "succeeded"), ("create", "succeeded")]
    made = runs[1]
    assert rampart.json("backup", "show", made["id"]) == made
    assert f"set            {name}\n" in rampart.good("backup", "show", made["id"])
    assert rampart.good("backup", "list").splitlines()[1].split()[:4] == [made["id"], "create", "succeeded", name]


def test_only_a_run_that_is_under_way_is_cancelled(rampart):
    ended = rampart.json("backup", "list")["runs"][0]["id"] if rampart.good("backup", "create") else ""
    for run, why in ((ended, "has ended"), ("../users", "no such run"), ("x", "no such run")):
        refused = rampart.run("backup", "cancel", run)
        assert refused.returncode == 1 and why in refused.stderr, refused
    assert rampart.run("backup", "cancel", ended, role="viewer").returncode == 1


def test_the_script_for_a_cron_prints_a_verdict(rampart):
    script = REPOSITORY / "scripts" / "backup" / "ml-automated-backup.sh"
    target = Path(rampart.command()[0]).resolve().parents[1]
    environment = rampart.environment("", {"CARGO_TARGET_DIR": str(target)})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )  # fmt: skip

    proved = run()
    assert proved.returncode == 0 and proved.stdout.startswith("VALID ml-data-"), proved
    refused = run("--token-file", "/nowhere")
    assert refused.returncode == 2 and refused.stdout.startswith("NOT VERIFIED"), refused
