# shellcheck shell=bash
# A platform of the tests' own beside one that may be in use: its own project, names, ports, networks and folders.
# Only the images are shared. It is destroyed before the tests and after them, also when they are cut off.

# enter_test_platform [PROJECT DIGIT]: whatever an .env file says, the platform under test is this one. Its ports begin with the digit.
enter_test_platform() {
    local project=${1:-rampart-test} digit=${2:-1}
    test_platform_folder=${TMPDIR:-/var/tmp}/$project-platform
    export COMPOSE_PROJECT_NAME=$project
    export RAMPART_PREFIX=$project-
    export RAMPART_CERTS=$test_platform_folder/certs RAMPART_ACCESS=$test_platform_folder/access
    export RAMPART_BIND=127.0.0.1
    export RAMPART_PORT_8095=${digit}8095 RAMPART_PORT_8093=${digit}8093 RAMPART_PORT_8096=${digit}8096 RAMPART_PORT_8097=${digit}8097
    export RAMPART_PORT_5000=${digit}5000 RAMPART_PORT_8200=${digit}8200 RAMPART_PORT_9000=${digit}9000
    export RAMPART_PORT_9090=${digit}9090 RAMPART_PORT_9093=${digit}9093
    local network=198.18.$((95 + digit))
    export RAMPART_EDGE_SUBNET=$network.0/24 RAMPART_EDGE_RANGE=$network.128/25 RAMPART_FRONT_ADDRESS=$network.2
    export RAMPART_FRONT_NAMES=ml.example.test,$network.2
    export RAMPART_FRONT_FOLDER=$test_platform_folder/front RAMPART_FRONT_CERTIFICATE=chain.pem RAMPART_FRONT_KEY=key.pem
    export RAMPART_UNSEAL_BY_PEOPLE=false RAMPART_CERTIFICATE_LIFETIME_S=86400
    export RAMPART_VAULT_IMAGE=${RAMPART_TEST_VAULT_IMAGE:-vault-programs}
    export RAMPART_S3_ENDPOINT=https://minio:9000
    # What is renewed by the day is renewed under the tests' eyes, but not so often that looking takes a core.
    export RENEW_CHECK_S=5 RAMPART_DATABASE_ROTATION_S=60 RAMPART_DATABASE_CONNECTION_AGE_S=5
    export RAMPART_TEST_BYSTANDER=bystander-of-$project
}

# A container that belongs to nothing here. All that the stage does must leave it as it is.
start_bystander() {
    lock_cache
    provide_engine
    provide_base "$debian_base" make_debian_base
    unlock_cache
    remove_bystander
    quietly "the bystander does not start" "see what Docker says: docker ps --all" \
        docker run --detach --network none --name "$RAMPART_TEST_BYSTANDER" "$debian_base" sleep infinity
    bystander_before=$(describe_bystander)
}

describe_bystander() {
    docker inspect --format '{{.Id}} {{.State.Running}} since {{.State.StartedAt}}, restarts: {{.RestartCount}}' "$RAMPART_TEST_BYSTANDER" 2>&1 || true
}

# check_bystander: whether it is the same container and the same process, which then has served its turn.
check_bystander() {
    local now
    now=$(describe_bystander)
    remove_bystander
    [[ $now == "$bystander_before" ]] && return 0
    printf 'the bystander container was hurt:\n  before: %s\n  after:  %s\n' "$bystander_before" "$now"
    return 1
}

remove_bystander() {
    docker rm --force "$RAMPART_TEST_BYSTANDER" >/dev/null 2>&1 || true
}

start_test_platform() {
    destroy_test_platform
    mkdir -p "$RAMPART_CERTS" "$RAMPART_FRONT_FOLDER"
    # A test renews it, with one of a CA.
    quietly "openssl makes no certificate" "see what it says" openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -days 2 -subj /CN=own.example.test -addext subjectAltName=DNS:own.example.test \
        -keyout "$RAMPART_FRONT_FOLDER/key.pem" -out "$RAMPART_FRONT_FOLDER/chain.pem"
    chgrp 10002 "$RAMPART_FRONT_FOLDER/key.pem"
    chmod 0640 "$RAMPART_FRONT_FOLDER/key.pem"
    chmod a+rX "$RAMPART_FRONT_FOLDER" "$RAMPART_FRONT_FOLDER/chain.pem"
    "${root:?}/scripts/up"
}

# Leaves nothing, whatever state it was in.
leave_test_platform() {
    destroy_test_platform
    remove_bystander
}

destroy_test_platform() {
    # Without an engine there is nothing to destroy, and scripts/up brings one.
    docker info >/dev/null 2>&1 || return 0
    quietly "the platform of the tests could not be removed" "remove it by hand: docker compose --project-name $COMPOSE_PROJECT_NAME down --volumes" \
        "${root:?}/scripts/down" --destroy --keep-images
    rm -rf "${test_platform_folder:?}"
}

# build_containers: sets containers_binary. Beside the libraries and binaries every crate has the features that it has in the other
# stages; alone, 300 would be built once more. That is also why the tests are not run by cargo.
build_containers() {
    containers_binary=$(cargo test --locked --workspace --features end-to-end/containers --lib --bins --test containers --no-run \
        --message-format=json-render-diagnostics | python3 -c '
import json, sys
for message in map(json.loads, sys.stdin):
    if message["reason"] == "compiler-artifact" and message["target"]["name"] == "containers" and message["executable"]:
        print(message["executable"])')
    [[ -x $containers_binary ]]
}

# test_containers AT_ONCE FILTER...: the tests of tests/tests/containers whose names contain one of these.
test_containers() {
    local at_once=$1
    shift
    (cd "${root:?}/tests" && "$containers_binary" --nocapture --test-threads="$at_once" "$@")
}

# test_platform ci|all: start, every test, destroy.
test_platform() (
    trap leave_test_platform EXIT
    enter_test_platform
    build_containers || exit 1
    start_bystander
    start_test_platform || exit 1
    failed=0
    # These only look. The search for secrets takes a core for a minute, so nothing that has to be in time runs beside it.
    test_containers 3 bystander:: forgeries:: ports:: secrets:: || failed=1
    test_containers 1 models:: rotation:: front:: hostile:: faults:: database:: restore:: || failed=1
    accept_test_platform || failed=1
    test_containers 1 order:: || failed=1
    if [[ $1 == all ]]; then
        test_containers 1 late:: || failed=1
    fi
    check_bystander || failed=1
    # Without it, and when no other container is there either, this kills Docker itself.
    test_containers 1 power:: || failed=1
    start_bystander
    if [[ $1 == all ]]; then
        # It starts a platform of its own, which nothing else could use.
        test_containers 1 strict:: || failed=1
    fi
    destroy_test_platform
    if [[ $1 == all ]]; then
        # So does this.
        "${root:?}/scripts/disaster-recovery-test.sh" || failed=1
    fi
    check_bystander || failed=1
    exit "$failed"
)

# Every row that can pass must; of the losses, only all of them when the whole matrix is wanted.
accept_test_platform() {
    if [[ $RAMPART_TEST_MATRIX != all ]]; then
        export RAMPART_ACCEPTANCE_LOSSES="ml-serving-primary gateway-a balancer-a"
    fi
    local report must
    report=$("${root:?}/scripts/acceptance.sh") || { printf '%s\n' "$report"; return 1; }
    printf '%s\n' "$report"
    for must in 1.1a 1.1a-internal 1.1b 1.1c 1.2 1.3a 1.3b 2.1 2.2 2.3 3.2; do
        grep -qE "^PASS +$must " <<<"$report" || { printf 'row %s has not passed\n' "$must"; return 1; }
    done
}
