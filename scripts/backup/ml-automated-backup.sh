#!/usr/bin/env bash
# Makes a backup set, waits for the restore that proves it, and prints VALID or INVALID and the name of the set: for a cron of your own.
# The platform does this daily by itself; see crates/backup/README.md.
#
# Exit code 0: VALID. 1: INVALID. 2: no set was made, or there is no verdict; standard error or the line that is printed says why.
# Options go to `rampart backup create`: with containers, `--token-file /access/login.token` is a login that is renewed (see OPERATIONS).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# The exit code of scripts/rampart is also 1 when it could not run: only the printed word is a verdict.
verdict=$("$root/scripts/rampart" backup create --verify "$@") || true
[[ -z $verdict ]] || printf '%s\n' "$verdict"
case $verdict in
    'VALID '*) exit 0 ;;
    'INVALID '*) exit 1 ;;
    *) exit 2 ;;
esac
