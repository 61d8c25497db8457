# shellcheck shell=bash
# What would let the platform fail later is found before anything is built or started: the clock, ports, memory, disk, and
# data that belongs to another CA. Each check ends the script with one sentence. Settings have a file of their own.

# The first build fills caches and images with about 8 GiB; later ones need room for logs and data.
disk_first_gib=10
disk_later_gib=2
# What all containers use together after the start, with room for the caches of PostgreSQL and MinIO.
memory_first_gib=6
# Certificates are made out a minute into the past, and more than that no clock of ours may be off.
clock_tolerance_s=120
# The machine's own clock, where it has one that can be asked.
clock_of_the_hardware=/sys/class/rtc/rtc0/since_epoch
memory_info=/proc/meminfo
memory_cgroup=/sys/fs/cgroup

# check_machine: wants an engine that answers.
check_machine() {
    check_ports
    check_edge_is_free
    remove_dead_rules
    if [[ -z $(our_containers) ]]; then
        check_memory
    fi
    check_disk
}

project() {
    setting COMPOSE_PROJECT_NAME
}

our_containers() {
    docker ps --quiet --filter "label=com.docker.compose.project=$(project)"
}

# === clock ===

# A wrong clock cannot be told from a right one by itself. A clock that follows a time server is believed. Any other is
# compared with the hardware's, which goes on by itself; and it cannot be right when it is earlier than what was written
# here, or committed, before.
check_clock() {
    local now file time
    now=$(date +%s)
    [[ $(follows_a_time_server) != yes ]] || return 0
    if [[ -r $clock_of_the_hardware ]] && ! grep -qs LOCAL /etc/adjtime; then
        time=$(<"$clock_of_the_hardware")
        ((now - time <= clock_tolerance_s && time - now <= clock_tolerance_s)) ||
            die "this machine's clock says $(clock "$now"), but its hardware clock says $(clock "$time")" \
                "set the clock, for example with: timedatectl set-ntp true; if it is right: hwclock --systohc"
    fi
    for file in "$(setting RAMPART_CERTS)"/*.pem "${root:?}"/.git/HEAD "$root"/.git/index "$root"/docker-compose.yml; do
        [[ -e $file ]] || continue
        time=$(stat --format %Y "$file")
        ((time <= now + clock_tolerance_s)) ||
            die "this machine's clock says $(clock "$now"), but ${file#"$root"/} was written at $(clock "$time")" \
                "set the clock, for example with: timedatectl set-ntp true; if it is right: touch ${file#"$root"/}"
    done
    time=$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)
    ((time <= now + clock_tolerance_s)) ||
        die "this machine's clock says $(clock "$now"), but the last commit was made at $(clock "$time")" \
            "set the clock, for example with: timedatectl set-ntp true"
    [[ $(follows_a_time_server) != no ]] ||
        say "note: no time server keeps this machine's clock right; clients refuse certificates from their future or past"
}

# yes, no, or nothing where systemd does not run.
follows_a_time_server() {
    timeout 2 timedatectl show --property NTPSynchronized --value 2>/dev/null || true
}

clock() {
    date --date "@$1" '+%F %T %Z'
}

# === ports ===

# A port that a container of ours publishes is no fault: the platform runs already.
check_ports() {
    local name port bind holder
    for name in $(names_of_ports); do
        port=$(setting "$name")
        bind=$(address_of_port "$name")
        holder=$(docker ps --filter "publish=$port" --format '{{.Label "com.docker.compose.project"}} {{.Names}}' | head -n 1)
        [[ $holder != "$(project) "* ]] || continue
        if [[ -n $holder ]]; then
            holder="the container $(cut -d ' ' -f 2 <<<"$holder")"
        else
            is_listened_to "$bind" "$port" || continue
            holder=$(who_listens "$port")
        fi
        die "port $port is in use by $holder" "stop that, or choose another port: $name in .env"
    done
}

# Where docker-compose.yml publishes it.
address_of_port() {
    if grep -q "127.0.0.1:\${$1:-" "$root/docker-compose.yml"; then
        echo 127.0.0.1
    else
        setting RAMPART_BIND
    fi
}

# is_listened_to ADDRESS PORT: whether a socket is in the way of ours. Addresses in /proc are hexadecimal, each word of
# them lowest byte first; 0A is "listens".
is_listened_to() {
    local a b c d ours port
    IFS=. read -r a b c d <<<"$1"
    ours=$(printf '%02X%02X%02X%02X' "$d" "$c" "$b" "$a")
    port=$(printf '%04X' "$2")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v ours="$ours" -v port="$port" '
        $4 == "0A" && split($2, at, ":") == 2 && at[2] == port {
            theirs = substr(at[1], length(at[1]) - 7)
            is_any = at[1] ~ /^0+$/
            is_v4 = length(at[1]) == 8 || at[1] ~ /^0+FFFF0000/
            if (is_any || ours == "00000000" || (is_v4 && theirs == ours)) found = 1
        }
        END { exit !found }'
}

who_listens() {
    local process
    process=$(ss --tcp --listening --numeric --processes --no-header "sport = :$1" 2>/dev/null |
        sed -nE 's/.*users:\(\("([^"]+)",pid=([0-9]+).*/\1 (process \2)/p' | head -n 1)
    echo "${process:-a process of another user}"
}

# === the network that clients come in through ===

# Two networks with the same addresses let the front reach neither balancer. Docker knows its own; this finds the others, and
# what an engine left in the kernel that was removed together with its data.
check_edge_is_free() {
    local subnet ours interface address
    command -v ip >/dev/null || return 0
    subnet=$(setting RAMPART_EDGE_SUBNET)
    ours=$(docker network ls --quiet --filter "label=com.docker.compose.project=$(project)" | sed 's/^/br-/')
    while read -r _ interface _ address _; do
        is_within "$subnet" "${address%/*}" || continue
        ! grep -qxF "$interface" <<<"$ours" || continue
        die "the interface $interface has the address ${address%/*}, which is in RAMPART_EDGE_SUBNET $subnet" \
            "set RAMPART_EDGE_SUBNET, RAMPART_EDGE_RANGE and RAMPART_FRONT_ADDRESS to a free network in .env; if an old engine has left it: ip link delete $interface"
    done < <(ip -oneline -family inet address show)
}

# An engine that was removed with its data leaves rules of its networks behind: "what leaves the subnet by any other interface
# than its bridge gets the machine's address". Without the bridge that is everything, and Docker gives the subnet to the next
# network: there etcd's members refuse each other, and the balancers do not believe the front who its client is.
remove_dead_rules() {
    local rule bridge
    [[ $(id -u) == 0 ]] && command -v iptables >/dev/null || return 0
    while read -r rule; do
        bridge=$(sed -nE 's/.* ! -o (br-[0-9a-f]{12}) .*/\1/p' <<<"$rule")
        [[ -n $bridge && ! -e /sys/class/net/$bridge ]] || continue
        # shellcheck disable=SC2086 # words of a rule
        iptables --wait --table nat -D ${rule#-A }
        say "removed a rule of the firewall for the network $bridge, which is gone: $rule"
    done < <(iptables --wait --table nat -S POSTROUTING)
}

# === memory ===

check_memory() {
    local kib
    kib=$(memory_available_kib)
    ((kib >= memory_first_gib * 1024 * 1024)) ||
        die "$(gib "$kib") of memory are available, and the platform needs $memory_first_gib GiB" \
            "stop what uses it, or take a machine (or a limit) with more"
}

# What the kernel could give, or what a limit on all of this machine leaves, which happens when it is itself a container.
memory_available_kib() {
    local available limit used cache left
    available=$(awk '$1 == "MemAvailable:" { print $2 }' "$memory_info")
    if [[ -r $memory_cgroup/memory.max ]]; then
        limit=$(<"$memory_cgroup/memory.max") used=$(<"$memory_cgroup/memory.current")
        cache=$(awk '$1 == "inactive_file" { print $2 }' "$memory_cgroup/memory.stat")
    elif [[ -r $memory_cgroup/memory/memory.limit_in_bytes ]]; then
        limit=$(<"$memory_cgroup/memory/memory.limit_in_bytes") used=$(<"$memory_cgroup/memory/memory.usage_in_bytes")
        cache=$(awk '$1 == "total_inactive_file" { print $2 }' "$memory_cgroup/memory/memory.stat")
    fi
    if [[ ${limit:-max} != max ]]; then
        left=$(((limit - used + ${cache:-0}) / 1024))
        ((left >= available)) || available=$left
    fi
    echo "$available"
}

gib() {
    awk -v kib="$1" 'BEGIN { printf "%.1f GiB", kib / 1024 / 1024 }'
}

# === disk ===

check_disk() {
    local folder wanted=$disk_later_gib kib
    has_all_images || wanted=$disk_first_gib
    for folder in "$(docker info --format '{{.DockerRootDir}}')" "$root"; do
        # An engine elsewhere keeps its data elsewhere.
        [[ -d $folder ]] || continue
        kib=$(df --portability --block-size 1K "$folder" | awk 'END { print $4 }')
        ((kib >= wanted * 1024 * 1024)) ||
            die "$(gib "$kib") are free on the disk of $folder, and $wanted GiB are needed" \
                "make room, for example with: docker builder prune; see what is there: docker system df"
    done
}

has_all_images() {
    local images
    mapfile -t images < <(all_images)
    docker image inspect "${images[@]}" >/dev/null 2>&1
}

# === data of another CA ===

# check_data IMAGE: the CA lies outside of the volumes, so each can be lost or brought back without the other. IMAGE is
# any that has a shell in it.
check_data() {
    local image=$1 certs steward vault found again
    certs=$(setting RAMPART_CERTS)
    again="bring $certs back from your backup, or begin anew with empty data: scripts/down --destroy"
    [[ -e $certs/ca-key.pem || ! -e $certs/ca.pem ]] ||
        die "the CA $certs/ca.pem is there, but its key $certs/ca-key.pem is not" "$again"
    steward=$(our_volume state-steward) vault=$(our_volume state-vault)
    [[ -n $steward && -n $vault ]] || return 0
    found=$(timeout 20 docker run --rm --network none --read-only --volume "$steward:/steward:ro" --volume "$vault:/vault:ro" \
        "$image" sh -c 'test ! -e /steward/vault-login.json || echo set-up; cat /vault/identity/ca.pem 2>/dev/null || true') ||
        die "the volumes of an earlier start cannot be looked into" "see why: docker run --rm --volume $vault:/vault:ro $image ls /vault"
    [[ $found == *BEGIN* ]] || return 0
    [[ -e $certs/ca.pem ]] ||
        die "there is data of an earlier start (volumes of $(project)), but its CA $certs/ca.pem is missing" "$again"
    [[ ${found#set-up$'\n'} == "$(<"$certs/ca.pem")" ]] ||
        die "there is data of an earlier start (volumes of $(project)), but of another CA than $certs/ca.pem" "$again"
    [[ $found != set-up* || $(setting RAMPART_UNSEAL_BY_PEOPLE) == true || -e $certs/vault-unseal-key ]] ||
        die "Vault's data is there, but the key that opens it, $certs/vault-unseal-key, is missing" "$again"
}

our_volume() {
    docker volume ls --quiet --filter "label=com.docker.compose.project=$(project)" --filter "label=com.docker.compose.volume=$1"
}
