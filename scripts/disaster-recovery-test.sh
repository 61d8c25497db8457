#!/usr/bin/env bash
# Shows that a disaster is survived: starts a platform of its own beside any other, lets it acknowledge work for minutes, kills and removes all of
# it, and rebuilds it with the steps of scripts/disaster-recovery from the escrow and the copy of the buckets. Prints RTO and RPO, and fails when
# they are more than 15 min and 2 min, or when something that was acknowledged before is missing or another. See tests/tests/containers/disaster.rs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=scripts/lib/setup.sh
source "$root/scripts/lib/setup.sh"
# shellcheck source=scripts/lib/docker.sh
source "$root/scripts/lib/docker.sh"
# shellcheck source=scripts/lib/test-platform.sh
source "$root/scripts/lib/test-platform.sh"

# The start, the ledger, the rebuilding and the checks; what takes longer hangs.
test_within=45m

export SQLX_OFFLINE=true
unset DATABASE_URL RAMPART_STATE RAMPART_TOKEN_FILE

enter_test_platform rampart-disaster 2
export RAMPART_DISASTER_FOLDER=$test_platform_folder/outside
trap destroy_test_platform EXIT
lock_cache
provide_engine
provide_onnxruntime
export RAMPART_ONNXRUNTIME=$onnxruntime_library RAMPART_ONNXRUNTIME_SHA256=$onnxruntime_sha256
unlock_cache
say "building the test"
build_containers
start_test_platform
mkdir -m 0700 "$RAMPART_DISASTER_FOLDER"
say "the platform works, is destroyed, and is rebuilt"
(cd "$root/tests" && timeout "$test_within" "$containers_binary" --nocapture --test-threads=1 disaster::)
say "the disaster was survived"
