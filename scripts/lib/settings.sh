# shellcheck shell=bash
# What can be set for the containers: in .env, or in the environment, which wins. What docker-compose.yml would take
# without a word, and fail on later, is refused here. Names and defaults are those of .env.example.

# Every variable, and the form that its value must have.
settings_known='
COMPOSE_PROJECT_NAME            project
RAMPART_PREFIX                  prefix
RAMPART_BIND                    own-address
RAMPART_PORT_8095               port
RAMPART_PORT_8093               port
RAMPART_PORT_8096               port
RAMPART_PORT_8097               port
RAMPART_PORT_5000               port
RAMPART_PORT_8200               port
RAMPART_PORT_9000               port
RAMPART_PORT_9090               port
RAMPART_PORT_9093               port
RAMPART_EDGE_SUBNET             subnet
RAMPART_EDGE_RANGE              subnet
RAMPART_FRONT_ADDRESS           address
RAMPART_FRONT_NAMES             names
RAMPART_FRONT_FOLDER            own-folder
RAMPART_FRONT_CERTIFICATE       file-within
RAMPART_FRONT_KEY               file-within
RAMPART_CERTS                   folder
RAMPART_ACCESS                  folder
RAMPART_UNSEAL_BY_PEOPLE        true|false
RAMPART_CERTIFICATE_LIFETIME_S  60-2592000
RAMPART_DATABASE_ROTATION_S     10-31536000
RAMPART_DATABASE_CONNECTION_AGE_S 1-86400
RAMPART_BASE_BACKUP_FULL_S      60-31536000
RAMPART_BASE_BACKUP_INCREMENTAL_S 60-31536000
RAMPART_VAULT_IMAGE             image
RAMPART_S3_ENDPOINT             endpoint
RAMPART_HEALTH_CHECK_S          1-3600
RENEW_CHECK_S                   1-3600
'

# check_settings: ends the script on the first fault; afterwards the settings of .env are in the environment, too.
check_settings() {
    local name form
    read_env_file
    while read -r name form; do
        [[ -z $name || -z ${!name+is set} ]] || check_value "$name" "$form" "${!name}"
    done <<<"$settings_known"
    check_ports_differ
    check_edge
    check_front_certificate
}

# setting NAME: its value, or its default.
setting() {
    printf '%s' "${!1:-$(sed -n "s/^#$1=//p" "${root:?}/.env.example")}"
}

names_of_ports() {
    sed -n 's/^\(RAMPART_PORT_[0-9]*\) .*/\1/p' <<<"$settings_known"
}

is_known() {
    grep -q "^$1 " <<<"$settings_known"
}

# Takes what compose takes: NAME=value, quoted or not, a comment behind it, "export" before it.
read_env_file() {
    local file=${root:?}/.env line number=0 name value
    [[ -e $file ]] || return 0
    [[ -r $file ]] || die ".env cannot be read" "make it readable for $(id -un), or remove it: it is optional"
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        [[ ! $line =~ ^[[:space:]]*(#|$) ]] || continue
        [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] ||
            die "line $number of .env is not of the form NAME=value: $line" "correct or remove it; .env.example shows every setting"
        name=${BASH_REMATCH[2]}
        value=$(unquoted "${BASH_REMATCH[3]}")
        if is_known "$name"; then
            [[ -n ${!name+is set} ]] || export "$name=$value"
        elif [[ $name == RAMPART_* ]]; then
            die "line $number of .env sets $name, which nothing reads" "$(names_near "$name")"
        fi
    done <"$file"
}

unquoted() {
    local value=$1
    if [[ $value =~ ^[[:space:]]*\"([^\"]*)\" || $value =~ ^[[:space:]]*\'([^\']*)\' ]]; then
        value=${BASH_REMATCH[1]}
    else
        value=${value%%[[:space:]]#*}
        value=${value#"${value%%[![:space:]]*}"}
        value=${value%"${value##*[![:space:]]}"}
    fi
    printf '%s' "$value"
}

# What may have been meant: names that differ in three letters or fewer (Levenshtein), else where all of them are.
names_near() {
    local near
    near=$(awk -v wrong="$1" '
        function least(a, b, c) { return a < b ? (a < c ? a : c) : (b < c ? b : c) }
        function distance(s, t,    i, j, row, above, left) {
            for (j = 0; j <= length(t); j++) row[j] = j
            for (i = 1; i <= length(s); i++) {
                above = row[0]; row[0] = i
                for (j = 1; j <= length(t); j++) {
                    left = row[j]
                    row[j] = least(row[j] + 1, row[j - 1] + 1, above + (substr(s, i, 1) != substr(t, j, 1)))
                    above = left
                }
            }
            return row[length(t)]
        }
        NF && distance(wrong, $1) <= 3 { print $1 }' <<<"$settings_known" | paste -sd , | sed 's/,/, /g')
    if [[ -n $near ]]; then
        echo "is one of these meant? $near"
    else
        echo "remove it; .env.example shows every setting"
    fi
}

# check_value NAME FORM VALUE
check_value() {
    local name=$1 form=$2 value=$3 wanted=''
    if [[ -z $value && $form =~ ^(prefix|names|file-within)$ ]]; then return; fi
    [[ -n $value ]] || die "$name is set, but empty" "give it a value, or remove it to get its default, $(unset "$name" && setting "$name")"
    case $form in
        project) [[ $value =~ ^[a-z0-9][a-z0-9_-]*$ ]] || wanted="lower-case letters, digits, - and _" ;;
        prefix) [[ $value =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,31}$ ]] || wanted="at most 32 letters, digits, . - and _, like test-" ;;
        port) is_number_in "$value" 1 65535 || wanted="a port, 1 to 65535" ;;
        address) is_address "$value" || wanted="an IPv4 address, like 198.18.95.2" ;;
        own-address) is_own_address "$value" || wanted="an IPv4 address of this machine, or 0.0.0.0 for all of them" ;;
        subnet) is_subnet "$value" || wanted="an IPv4 network of at most 16777216 addresses that begins where it says, like 198.18.95.0/24" ;;
        # Without the slash it would be the name of a volume.
        # By default an empty volume.
        own-folder) [[ $value == front || $value =~ ^\.{0,2}/ ]] || wanted="a folder that begins with / or ./" ;;
        folder) [[ $value =~ ^\.{0,2}/ ]] || wanted="a folder that begins with / or ./" ;;
        # What each may be, the steward says, who makes the certificate.
        names) [[ $value =~ ^[a-zA-Z0-9.:-]+([ ,]+[a-zA-Z0-9.:-]+)*$ ]] || wanted="host names and addresses, between commas, like ml.example.org,192.0.2.7" ;;
        file-within) [[ $value =~ ^[^/] && ! /$value/ =~ /\.\./ ]] || wanted="the path of a file inside of RAMPART_FRONT_FOLDER, like live/ml.example.org/fullchain.pem" ;;
        image) [[ $value =~ ^[a-z0-9][a-z0-9._/:@-]*$ ]] || wanted="the name of an image, like rampart/vault" ;;
        endpoint) [[ $value =~ ^https://[a-zA-Z0-9.-]+(:[0-9]{1,5})?$ ]] || wanted="https://, a name and perhaps a port, like https://minio:9000" ;;
        'true|false') [[ $value == true || $value == false ]] || wanted="true or false" ;;
        *-*) is_number_in "$value" "${form%-*}" "${form#*-}" || wanted="a number of seconds, ${form%-*} to ${form#*-}" ;;
        *) die "the form $form of $name is not known" "correct settings_known in scripts/lib/settings.sh" ;;
    esac
    [[ -z $wanted ]] || die "$name is \"$value\", and must be $wanted" "correct it in .env or in the environment"
}

# No leading zeros: compose and the services would read them differently.
is_number_in() {
    [[ $1 =~ ^[1-9][0-9]{0,9}$ ]] && (($1 >= $2 && $1 <= $3))
}

is_address() {
    local part
    [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$ ]] || return 1
    for part in ${1//./ }; do
        [[ $part == 0 ]] || is_number_in "$part" 1 255 || return 1
    done
}

is_own_address() {
    is_address "$1" || return 1
    [[ $1 == 0.0.0.0 || $1 == 127.* ]] ||
        awk -v address="$1" '/32 host LOCAL/ && before == address { found = 1 } { before = $2 } END { exit !found }' /proc/net/fib_trie
}

# The address as a number.
number_of() {
    local a b c d
    IFS=. read -r a b c d <<<"$1"
    echo $(((a << 24) + (b << 16) + (c << 8) + d))
}

size_of() {
    echo $((1 << (32 - ${1#*/})))
}

is_subnet() {
    [[ $1 == */* ]] && is_address "${1%/*}" && is_number_in "${1#*/}" 8 30 &&
        (($(number_of "${1%/*}") % $(size_of "$1") == 0))
}

# is_within SUBNET ADDRESS
is_within() {
    local first
    first=$(number_of "${1%/*}")
    (($(number_of "$2") >= first && $(number_of "$2") < first + $(size_of "$1")))
}

check_ports_differ() {
    local name port
    local -A names=()
    for name in $(names_of_ports); do
        port=$(setting "$name")
        [[ -z ${names[$port]:-} ]] || die "$name and ${names[$port]} are both $port" "give one of them another port in .env"
        names[$port]=$name
    done
}

# The front has an address of its own, which Docker must not give to another container first.
check_edge() {
    local subnet range front remedy="set all three of them together; .env.example has a set that fits"
    subnet=$(setting RAMPART_EDGE_SUBNET) range=$(setting RAMPART_EDGE_RANGE) front=$(setting RAMPART_FRONT_ADDRESS)
    if ! is_within "$subnet" "${range%/*}" || (($(size_of "$range") > $(size_of "$subnet"))); then
        die "RAMPART_EDGE_RANGE $range is not inside of RAMPART_EDGE_SUBNET $subnet" "$remedy"
    fi
    # The first address is the network itself, and Docker takes the second.
    if ! is_within "$subnet" "$front" || (($(number_of "$front") < $(number_of "${subnet%/*}") + 2)); then
        die "RAMPART_FRONT_ADDRESS $front is not inside of RAMPART_EDGE_SUBNET $subnet, or one of its first two addresses" "$remedy"
    fi
    if is_within "$range" "$front"; then
        die "RAMPART_FRONT_ADDRESS $front is inside of RAMPART_EDGE_RANGE $range, where Docker may give it away" "$remedy"
    fi
}

# The steward reads the owner's certificate, as a user of its own.
check_front_certificate() {
    local name file
    [[ -n ${RAMPART_FRONT_CERTIFICATE:-}${RAMPART_FRONT_KEY:-} ]] || return 0
    for name in RAMPART_FRONT_FOLDER RAMPART_FRONT_CERTIFICATE RAMPART_FRONT_KEY; do
        [[ -n ${!name:-} && ${!name} != front ]] || die "a certificate of your own for the front needs $name, too" "set all three; .env.example says what they are"
    done
    for file in "$RAMPART_FRONT_CERTIFICATE" "$RAMPART_FRONT_KEY"; do
        [[ -f $RAMPART_FRONT_FOLDER/$file ]] || die "there is no file $RAMPART_FRONT_FOLDER/$file" "correct RAMPART_FRONT_CERTIFICATE and RAMPART_FRONT_KEY"
        is_for_steward "$RAMPART_FRONT_FOLDER" "$file" || die "user 10002, the steward, may not read $RAMPART_FRONT_FOLDER/$file" \
            "give its group the right to: chgrp 10002 and chmod g+rX, for the file and each folder above it in $RAMPART_FRONT_FOLDER"
    done
}

# is_for_steward FOLDER FILE: whether user and group 10002 may read FOLDER/FILE, once links are followed.
is_for_steward() {
    local path folder
    path=$(realpath "$1/$2") folder=$(realpath "$1")
    may_steward 4 "$path" || return 1
    while path=$(dirname "$path"); [[ $path != / && $path/ == "${folder%/}/"* ]]; do
        may_steward 1 "$path" || return 1
    done
}

# may_steward BIT PATH: 4 to read, 1 to enter.
may_steward() {
    local mode user group
    read -r mode user group < <(stat --format '%a %u %g' "$2")
    mode=$((8#$mode))
    if [[ $user == 10002 ]]; then mode=$((mode >> 6)); elif [[ $group == 10002 ]]; then mode=$((mode >> 3)); fi
    ((mode & $1))
}
