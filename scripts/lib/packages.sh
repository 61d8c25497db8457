# shellcheck shell=bash
# Debian packages, installed only when what they bring is not there yet.

packages_missing=()

# want PACKAGE WHY TEST...: remembers the package when TEST fails.
want() {
    local package=$1 why=$2
    shift 2
    "$@" >/dev/null 2>&1 && return 0
    say "will install $package: $why"
    packages_missing+=("$package")
}

have() {
    command -v "$1"
}

have_certificates() {
    [[ -s /etc/ssl/certs/ca-certificates.crt || -s /etc/pki/tls/certs/ca-bundle.crt ]]
}

have_c_headers() {
    cc -E -x c - <<<'#include <stdlib.h>'
}

have_postgresql() {
    local initdb version
    for initdb in "$(command -v initdb || true)" /usr/lib/postgresql/*/bin/initdb; do
        [[ -x $initdb ]] || continue
        version=$("$initdb" --version | grep -oE '[0-9]+' | head -n 1)
        ((version >= 15)) && return 0
    done
    return 1
}

have_fetch() {
    node --eval 'process.exit(typeof fetch === "function" ? 0 : 1)'
}

# What it takes to build and run the platform.
want_for_running() {
    want ca-certificates "to trust the package registries" have_certificates
    want gcc "compiles the C parts of the TLS and compression libraries" have cc
    want libc6-dev "the C headers" have_c_headers
    want cmake "builds zlib, which the proxy library links" have cmake
    want make "runs what cmake wrote" have make
    want python3 "runs pip, which fetches ONNX Runtime" have python3
    want python3-venv "keeps Python packages out of the system" find_python
    want postgresql "the platform runs a cluster of its own from its initdb" have_postgresql
    want locales "models of text ask for the locale en_US.UTF-8" have_locale_sources
    want curl "to repeat the printed prediction by hand" have curl
}

# What the tests need beyond that.
want_for_testing() {
    want openssl "an independent TLS client for the tests" have openssl
    want jq "reads what the platform answers" have jq
    want sslscan "lists what a TLS port accepts" have sslscan
    want shellcheck "checks these scripts" have shellcheck
    want nodejs "a client of the tests: its fetch" have_fetch
}

install_packages() {
    ((${#packages_missing[@]})) || return 0
    local by_hand="apt-get install --no-install-recommends ${packages_missing[*]}" as_root=()
    command -v apt-get >/dev/null ||
        die "packages are missing and there is no apt-get here" "install the equivalents of: ${packages_missing[*]}"
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            die "packages are missing, and you are neither root nor is there sudo" "have root run: $by_hand"
        sudo --non-interactive true 2>/dev/null || [[ -t 0 ]] ||
            die "packages are missing, and sudo wants a password but there is no terminal to ask on" "run: sudo $by_hand"
        as_root=(sudo)
    fi
    say "installing ${packages_missing[*]}"
    # ${as_root[@]+...}: an empty array is "unbound" to older versions of bash.
    quietly "apt-get update failed" "check the network and /etc/apt/sources.list, then start again" \
        ${as_root[@]+"${as_root[@]}"} apt-get update
    without_a_default_cluster quietly "apt-get could not install the packages" "run it by hand to see more: $by_hand" \
        ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${packages_missing[@]}"
    packages_missing=()
    find_python >/dev/null ||
        die "this system's python3 is older than 3.11" "install Python 3.11 or newer with its venv module"
    have_postgresql ||
        die "this system's PostgreSQL is older than 15" "install PostgreSQL 15 or newer, for example from apt.postgresql.org"
}

# Debian's postgresql package makes a cluster and starts it on port 5432. The platform does not use that one: while the packages
# are installed, a drop-in tells it not to. Uses as_root of its caller.
without_a_default_cluster() (
    folder=/etc/postgresql-common/createcluster.d
    trap '${as_root[@]+"${as_root[@]}"} rm -f "$folder/rampart.conf"' EXIT
    ${as_root[@]+"${as_root[@]}"} mkdir -p "$folder"
    ${as_root[@]+"${as_root[@]}"} tee "$folder/rampart.conf" >/dev/null <<<'create_main_cluster = false'
    "$@"
)
