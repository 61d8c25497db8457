# shellcheck shell=bash
# Docker Engine with compose and buildx: what is on the machine, else Debian's packages.

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

engine_answers() {
    docker info
}

# Installs the engine when there is none, starts it when it does not run.
provide_engine() {
    engine_answers >/dev/null 2>&1 && return 0
    want docker.io "runs the containers" have dockerd
    want iptables "gives the containers a network" have iptables
    install_packages
    say "starting Docker Engine"
    if [[ -d /run/systemd/system ]]; then
        quietly "Docker Engine does not start" "see why: journalctl -u docker" \
            as_root systemctl enable --now docker
    else
        start_dockerd
    fi
    within 90 is_engine_up ||
        die "Docker Engine does not answer" "see why: $cache/dockerd.log or journalctl -u docker; or start it by hand: dockerd"
}

# Without systemd nothing else would start it. A session of its own, so that Ctrl-C here does not end it.
start_dockerd() {
    local log=${cache:?}/dockerd.log
    # Nothing else would keep it small; the last one may say why the engine is down.
    if [[ -e $log && $(stat --format %s "$log") -gt 10485760 ]]; then mv "$log" "$log.1"; fi
    as_root setsid dockerd >>"$log" 2>&1 </dev/null 9>&- &
    dockerd=$!
    disown
}

# After a crash the first start may end by itself, because it takes a process that is just dying for one that runs.
is_engine_up() {
    engine_answers && return 0
    if [[ -n ${dockerd:-} ]] && ! as_root kill -0 "$dockerd"; then start_dockerd; fi
    return 1
}

# within SECONDS COMMAND...: whether the command succeeds in that time.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

# compose v2 and buildx. Debian 12 has neither, Debian 13 has both: its packages are unpacked into the user's plugin folder.
provide_plugins() {
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return 0
    local plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins unpacked=$cache/docker-plugins
    say "installing compose and buildx into $plugins"
    mkdir -p "$plugins" "$unpacked"
    # shellcheck disable=SC2016 # expanded in the container
    quietly "compose and buildx could not be fetched" "install Docker's packages docker-compose-plugin and docker-buildx-plugin" \
        docker run --rm --volume "$unpacked:/unpacked" "${debian_base:?}" sh -euc '
            apt-get update
            cd /tmp
            apt-get download docker-compose docker-buildx
            for package in *.deb; do dpkg -x "$package" /unpacked; done'
    local plugin
    for plugin in docker-compose docker-buildx; do
        install -m 0755 "$unpacked/usr/libexec/docker/cli-plugins/$plugin" "$plugins/$plugin"
    done
    if ! docker compose version >/dev/null || ! docker buildx version >/dev/null; then
        die "compose or buildx does not run" "try them by hand: docker compose version; docker buildx version"
    fi
}

# The images that docker-compose.yml builds, a line each.
all_images() {
    sed -nE 's,^ *image: (rampart/[a-z-]+)$,\1,p' "${root:?}/docker-compose.yml" | sort -u
}

# Who of us is not well, with their last words. What compose says names only the last one in a row that waits.
say_who_is_unwell() {
    local name status
    while IFS=$'\t' read -r name status; do
        [[ $status != "Exited (0)"* && $status != Up\ *"(healthy)" ]] || continue
        printf -- '--- %s: %s\n' "$name" "$status" >&2
        docker logs --tail 5 "$name" 2>&1 | cut --characters -500 >&2
    done < <(docker ps --all --filter "label=com.docker.compose.project=$(project)" --format '{{.Names}}\t{{.Status}}')
}
