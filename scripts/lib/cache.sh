# shellcheck shell=bash
# Where downloads and build products live: outside the checkout, shared by all checkouts of one user.

cache=${RAMPART_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rampart}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}

# Two scripts that set up the same cache at the same time would see each other's half-finished files.
lock_cache() {
    mkdir -p "$cache" || die "cannot make $cache" "set RAMPART_CACHE to a folder that you may write to"
    exec 9>"$cache/setup.lock"
    if ! flock --nonblock 9; then
        say "waiting for another setup that uses $cache"
        flock 9
    fi
}

# Must be called before anything long-lived starts: children inherit the lock.
unlock_cache() {
    exec 9>&-
}
