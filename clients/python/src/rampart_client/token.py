"""`python -m rampart_client.token --write FILE`: keeps an access token in a file, renewed until it is stopped.

For programs that read a token from a file: `RAMPART_TOKEN_FILE` of `rampart` and of this package,
`MLFLOW_TRACKING_TOKEN=$(cat FILE)` of a command that takes less than ten minutes.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from . import private_file
from .credentials import ClientCredentials, Credentials, Password, RefreshToken, TokenFile, from_environment
from .error import RampartError
from .session import Session

AFTER_FAILURE_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Ends with 0 when it is stopped, and with 1 when the first login fails: what is wrong then stays wrong."""
    options = _parser().parse_args(arguments)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        session = Session(options.front, ca_file=options.ca_file, auth=_credentials(options))
        private_file.replace(options.write, session.token())
    except (RampartError, OSError, ValueError) as error:
        print(f"no token: {error}", file=sys.stderr)
        return 1
    if not options.once:
        _keep_fresh(session, options.write, stopped)
    return 0


def _keep_fresh(session: Session, path: Path, stopped: threading.Event) -> None:
    wait_s = session.seconds_to_renewal()
    while not stopped.wait(wait_s):
        try:
            private_file.replace(path, session.token())
            # At least a moment: a renewal that failed while the token is good is tried again in a while.
            wait_s = max(session.seconds_to_renewal(), 1.0)
        except (RampartError, OSError, ValueError) as error:
            print(f"the token is not renewed yet: {error}", file=sys.stderr, flush=True)
            wait_s = AFTER_FAILURE_S


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rampart_client.token", description="Keeps an access token in a file."
    )
    parser.add_argument("--write", type=Path, required=True, metavar="FILE", help="where the token goes, mode 0600")
    parser.add_argument("--once", action="store_true", help="write one token and end")
    parser.add_argument("--front", help="the front door; default: RAMPART_FRONT, or https://localhost:8095")
    parser.add_argument("--ca-file", help="the CA of its certificate, PEM; default: RAMPART_CA_FILE")
    who = parser.add_argument_group("who logs in", "default: the environment, as Session() reads it")
    who.add_argument("--user", help="a person")
    who.add_argument("--password-file", metavar="FILE")
    who.add_argument("--client-id", help="a machine")
    who.add_argument("--client-secret-file", metavar="FILE")
    who.add_argument(
        "--refresh-token-file", metavar="FILE", help="a login made before; each next token is written back"
    )
    return parser


def _credentials(options: argparse.Namespace) -> Credentials:
    if options.user and options.password_file:
        return Password.from_file(options.user, options.password_file)
    if options.client_id and options.client_secret_file:
        return ClientCredentials.from_file(options.client_id, options.client_secret_file)
    if options.refresh_token_file:
        return RefreshToken(file=options.refresh_token_file)
    if options.user or options.password_file or options.client_id or options.client_secret_file:
        raise ValueError("--user goes with --password-file, --client-id with --client-secret-file")
    found = from_environment()
    if isinstance(found, TokenFile):
        raise ValueError("RAMPART_TOKEN_FILE is what others read; name a user, a client or a refresh token")
    return found


if __name__ == "__main__":
    sys.exit(main())
