# shellcheck shell=bash
# The rows that scripts/acceptance.sh can ask: each function prints what it found, and fails with the reason when it is not so.

rows_passed=0 rows_failed=0 rows_open=0
# How soon /health answers OK after a loss.
failover_seconds=30

# === the platform ===

# Where it is: as docker-compose.yml is told, by the environment or by .env.
find_platform() {
    check_settings
    prefix=$(setting RAMPART_PREFIX)
    access=$(setting RAMPART_ACCESS)
    ca=$(setting RAMPART_CERTS)/ca.pem
    [[ -r $ca ]] || die "there is no $ca" "start the platform: scripts/up"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    umask 077
    # In files: arguments are public in /proc.
    jq --null-input --rawfile password "$access/secrets/operator/admin-password" \
        '{grant_type: "password", username: "admin", password: ($password | rtrimstr("\n"))}' >"$work/grant" ||
        die "there is no admin's password in $access" "start the platform: scripts/up"
    ask 8095 /api/auth/token --json "@$work/grant" |
        jq --exit-status --raw-output '"Authorization: Bearer " + .access_token' >"$work/admin" ||
        die "the admin cannot log in" "see why: docker compose logs gateway-a gateway-b"
}

# ask PORT PATH CURL_ARGUMENT...: the body, of whatever status.
ask() {
    local port=$1 path=$2
    shift 2
    curl --silent --show-error --max-time 10 --cacert "$ca" "$@" "https://localhost:$(setting "RAMPART_PORT_$port")$path"
}

inside() {
    docker exec "$prefix$1" "${@:2}"
}

# A moment after its password has changed, psql may still have the old one.
psql() {
    within 70 psql_once 'SELECT 1' >/dev/null || no "psql does not get in: $(psql_once 'SELECT 1' 2>&1 | tail -n 1)"
    psql_once "$1"
}

psql_once() {
    inside detektor-postgres psql -U detektor --no-psqlrc --tuples-only --no-align --command "$1"
}

# within SECONDS COMMAND...: whether it succeeds in that time.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

services() {
    docker compose ps --services
}

# === rows ===

wanted() {
    [[ -z $rows_wanted || " $rows_wanted " == *" $1 "* ]]
}

line() {
    printf '%-9s %-14s %s\n' "$1" "$2" "$3"
}

# row NUMBER WHAT CHECK: what the check prints last stands behind the row.
row() {
    wanted "$1" || return 0
    try "$3"
    if ((status == 0)); then
        rows_passed=$((rows_passed + 1))
        line PASS "$1" "$2${found:+ ($found)}"
    else
        rows_failed=$((rows_failed + 1))
        line FAIL "$1" "$2: ${found:-nothing was said}"
    fi
}

# deviates WHICH HOW CHECK: another form than the literal one holds.
deviates() {
    wanted "$1" || return 0
    try "$3"
    if ((status == 0)); then
        line DEVIATES "$1" "$2${found:+ ($found)}"
    else
        rows_failed=$((rows_failed + 1))
        line FAIL "$1" "$2: ${found:-nothing was said}"
    fi
}

# try CHECK: leaves its status, and its last line in found. Never within a condition: there, a command that fails in the
# middle of a check would be overlooked.
try() {
    set +e
    found=$(
        set -e
        "$1" 2>&1
    )
    status=$?
    set -e
    found=$(tail -n 1 <<<"$found")
}

todo() {
    wanted "$1" || return 0
    rows_open=$((rows_open + 1))
    line TODO "$1" "$2"
}

finish() {
    printf '%d passed, %d failed, %d to do\n' "$rows_passed" "$rows_failed" "$rows_open"
    exit "$((rows_failed > 0))"
}

no() {
    printf '%s\n' "$1"
    return 1
}

# === 1.1 ===

# speaks VERSION ADDRESS OPENSSL_ARGUMENT...
speaks() {
    local version=$1 address=$2
    shift 2
    # Without the certificate that a peer has to show the connection ends afterwards, with an error.
    [[ $(timeout 5 openssl s_client -brief -connect "$address" "-$version" "$@" </dev/null 2>&1) == *'Protocol version: TLSv1'* ]]
}

# only_tls_1_3 ADDRESS OPENSSL_ARGUMENT...
only_tls_1_3() {
    speaks tls1_3 "$@" || no "$1 does not speak TLS 1.3"
    ! speaks tls1_2 "$@" || no "$1 speaks TLS 1.2"
}

check_published_ports() {
    local port
    for port in 8095 8093 8096 8097 5000 8200 9000 9090 9093; do
        only_tls_1_3 "localhost:$(setting "RAMPART_PORT_$port")"
    done
    echo "9 ports"
}

# As the committed list has them; a test compares it with the sockets that there are.
check_internal_ports() {
    local container protocol address port form what network count=0
    while read -r container protocol address port form what; do
        network=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$prefix$container")
        case $form in
            tls) only_tls_1_3 "${network%% *}:$port" ;;
            postgres-tls) only_tls_1_3 "${network%% *}:$port" -starttls postgres ;;
            # After a PROXY header, which openssl cannot say: scripts/test asks those.
            proxy-tls) continue ;;
            # Only its own container reaches it.
            plain) [[ $address == loopback ]] || no "$container $protocol $port speaks no TLS: $what" ;;
        esac
        count=$((count + 1))
    done < <(grep -v '^#' tests/data/sockets.txt)
    echo "$count ports"
}

check_database_encryption() {
    [[ $(psql 'SHOW ssl') == on ]] || no "SHOW ssl does not say on"
    local refused
    refused=$(inside detektor-postgres env PGSSLMODE=disable psql -U detektor -c 'SELECT 1' 2>&1) && no "a plain connection was taken"
    [[ $refused == *"no encryption"* ]] || no "a plain connection ended otherwise: $refused"
    refused=$(inside detektor-postgres env PGSSLMINPROTOCOLVERSION=TLSv1.2 PGSSLMAXPROTOCOLVERSION=TLSv1.2 \
        psql -U detektor -c 'SELECT 1' 2>&1) && no "a connection with TLS 1.2 was taken"
    [[ $refused == *"protocol version"* ]] || no "a connection with TLS 1.2 ended otherwise: $refused"
    echo "plain and TLS 1.2 refused"
}

# The key may look and not write, so the canary is one of the objects that MLflow has written through the API.
check_object_encryption() {
    local status object canary
    status=$(run_tools mc stat --json "backup-bucket/mlflow-models/$(first_object)")
    jq --exit-status '.metadata | to_entries | any(.key | test("Server-Side-Encryption"; "i"))' <<<"$status" >/dev/null ||
        no "an object is not marked as encrypted: $status"
    object=$(first_object)
    # A run of it that is long enough to be its own.
    canary=$(run_tools mc cat "backup-bucket/mlflow-models/$object" | tr -cd '[:alnum:]_-' | head -c 40)
    ((${#canary} >= 20)) || no "no canary in $object"
    inside minio grep --recursive --quiet --text --fixed-strings "$canary" /data && no "$object is on the disk in the clear"
    echo "$object is encrypted, and not in the clear in /data"
}

first_object() {
    run_tools mc ls --recursive --json backup-bucket/mlflow-models/ | jq --slurp --raw-output 'map(.key | select(endswith("MLmodel")))[0]'
}

run_tools() {
    docker compose --profile tools run --rm --no-deps -T tools "$@" 2>/dev/null
}

# Behind their proxies, in their own containers.
check_hidden() {
    local container port
    for container in minio mlflow; do
        port=$(awk -v name="$container" '$1 == name && $5 == "plain" { print $4 }' tests/data/sockets.txt)
        # 0100007F is loopback, and 0A a socket that listens: proc_net_tcp(5).
        inside "$container" grep --quiet "0100007F:$(printf %04X "$port") 00000000:0000 0A" /proc/net/tcp ||
            no "$container does not listen on loopback at $port"
        ! inside "$container" grep --quiet "00000000:$(printf %04X "$port") 00000000:0000 0A" /proc/net/tcp ||
            no "$container listens on every address at $port"
    done
}

check_plain_http() {
    local port status
    for port in 8095 8093 8096 8097 5000; do
        status=$(plain "$port")
        [[ $status == "308 https://"* ]] || no "port $port answers plain http with $status"
        status=$(plain "$port" --header 'Authorization: Bearer exposed')
        [[ $status == 400* ]] || no "port $port answers a token over plain http with $status"
    done
}

plain() {
    local port
    port=$(setting "RAMPART_PORT_$1")
    shift
    curl --silent --output /dev/null --max-time 10 --write-out '%{http_code} %{redirect_url}' "$@" "http://localhost:$port/health"
}

# === 1.2, 1.3 ===

check_access() {
    local answer
    answer=$(ask 8095 /api/admin/users --header 'Authorization: Bearer not-a-token' --write-out '\n%{http_code} %{content_type}')
    [[ ${answer##*$'\n'} == "401 application/problem+json"* ]] || no "an invalid token is answered with ${answer##*$'\n'}"
    [[ $(jq .status <<<"${answer%$'\n'*}") == 401 ]] || no "the body does not say 401"
    answer=$(ask 8095 /api/admin/users --header "@$work/admin")
    jq --exit-status '.users | length > 0' <<<"$answer" >/dev/null || no "an admin sees no users: $answer"
    echo "$(jq '.users | length' <<<"$answer") users"
}

# A literal secret is a quoted word with letters and digits that is given to something called so.
check_sources() {
    local found
    found=$(git grep --perl-regexp --line-number --ignore-case \
        '(password|secret|token|api_?key|private_?key)\w*"?\s*[:=]\s*"(?=[^"]*[0-9])(?=[^"]*[A-Za-z])[A-Za-z0-9+/_=-]{12,}"' -- \
        'crates/*/src/*.rs' 'crates/*/config/*' 'docker' 'monitoring' 'nginx' 'docker-compose.yml' |
        grep --invert-match --extended-regexp '_file"?\s*[:=]|secrets/|[:=]\s*"(ml_|x-|rampart-|scram-sha-256)' || true)
    found+=$(git grep --line-number --extended-regexp -e '^\s*-----BEGIN [A-Z ]*PRIVATE KEY-----$' -- crates docker nginx || true)
    [[ -z $found ]] || no "$(head -n 1 <<<"$found")"
    echo "none in the sources"
}

check_vault() {
    local secret
    secret=$(run_vault kv get -format=json secret/ml/database)
    jq --exit-status '.data.data.password | length > 0' <<<"$secret" >/dev/null || no "no password in secret/ml/database"
    jq --exit-status '.data.metadata.version >= 1' <<<"$secret" >/dev/null || no "it has no version"
    echo "version $(jq .data.metadata.version <<<"$secret")"
}

run_vault() {
    run_tools vault "$@"
}

# === 2 ===

check_redundancy() {
    local answer count
    count=$(docker compose ps --services --filter status=running | grep -c '^ml-serving')
    ((count >= 2)) || no "$count serving containers"
    answer=$(ask 8097 /api/loadbalancer/status --header "@$work/admin")
    jq --exit-status '.healthy_backends >= 2' <<<"$answer" >/dev/null || no "healthy_backends: $answer"
    jq --exit-status '[.pools[].replicas[] | .state, .since, .why] | length > 0 and all(. != null)' <<<"$answer" >/dev/null ||
        no "a replica without state, since or why: $answer"
    echo "$(jq .healthy_backends <<<"$answer") healthy, $(jq '.pools | length' <<<"$answer") pools"
}

# The member of Patroni's list with this role.
member() {
    local node list
    for node in detektor-postgres-master detektor-postgres-slave; do
        list=$(inside "$node" patronictl list --format json 2>/dev/null) || continue
        jq --raw-output --arg role "$1" '.[] | select(.Role == $role) | .Member' <<<"$list"
        return
    done
    no "Patroni does not answer"
}

check_replication() {
    local leader standby row recovers
    leader=$(member Leader)
    standby=$(member 'Sync Standby')
    [[ -n $leader && -n $standby ]] || no "leader: ${leader:-none}, synchronous standby: ${standby:-none}"
    row=$(psql "SELECT application_name, state, sync_state FROM pg_stat_replication")
    [[ $row == "$standby|streaming|sync" ]] || no "pg_stat_replication says $row"
    recovers=$(inside "$standby" psql -h /run/postgresql -U postgres -tAc 'SELECT pg_is_in_recovery()')
    [[ $recovers == t ]] || no "$standby is not in recovery"
    echo "$leader to $standby"
}

is_ok() {
    [[ $(ask 8095 /health 2>/dev/null) == *OK* ]]
}

is_well() {
    [[ $(docker inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}' "$1") == "running healthy" ]]
}

# Each container in turn: what is named in RAMPART_ACCEPTANCE_LOSSES, or all.
check_failover() {
    local service name count=0
    for service in ${RAMPART_ACCEPTANCE_LOSSES:-$(services)}; do
        name=$prefix$service
        [[ $(docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' "$name") == always ]] || continue
        docker stop "$name" >/dev/null
        # There is one front on each host: nothing answers before it is back.
        [[ $service == front ]] || within "$failover_seconds" is_ok || no "$service stopped: /health is not OK"
        docker start "$name" >/dev/null
        back "$service stopped" "$name"
        docker kill "$name" >/dev/null
        [[ $service == front ]] || within "$failover_seconds" is_ok || no "$service killed: /health is not OK"
        # Docker takes a kill by hand for a wish, and does not restart it.
        docker start "$name" >/dev/null
        back "$service killed" "$name"
        count=$((count + 1))
    done
    echo "$count containers stopped and killed"
}

back() {
    within 120 is_well "$2" || no "$1: it does not come back"
    within "$failover_seconds" is_ok || no "$1: /health is not OK after it came back"
}

# === 3.2 ===

check_registry() {
    local objects answer
    objects=$(run_tools mc ls --recursive backup-bucket/mlflow-models/ | wc -l)
    ((objects > 0)) || no "the bucket mlflow-models is empty"
    answer=$(ask 5000 '/api/2.0/mlflow/model-versions/search?max_results=1000' --header "@$work/admin")
    jq --exit-status '.model_versions | length > 1' <<<"$answer" >/dev/null || no "the registry lists no versions: $answer"
    [[ $(ask 5000 /api/2.0/mlflow/model-versions/search --output /dev/null --write-out '%{http_code}') == 401 ]] ||
        no "without a token it is not 401"
    echo "$(jq '.model_versions | length' <<<"$answer") versions, $objects objects"
}
