# shellcheck shell=bash
# Where downloads and build products live: outside the checkout, shared by all checkouts of one user.

cache=${RAMPART_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/rampart}
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

# claim_builds PROFILE [CHECKOUT]: dependencies are built once for all checkouts. Our own crates are not: cargo tells fresh
# from stale by time stamps, so what another checkout built a minute ago would pass for a build of this one.
claim_builds() {
    local profile=$1 checkout=${2:-$root} owner=$CARGO_TARGET_DIR/checkout-$1
    if [[ -d $CARGO_TARGET_DIR/${profile/dev/debug} && $(cat "$owner" 2>/dev/null) != "$checkout" ]]; then
        say "the last $profile build was of another checkout: our own crates are built anew"
        (cd "$checkout" && quietly "cargo clean failed" "remove $CARGO_TARGET_DIR by hand, then start again" \
            cargo clean --workspace --profile "$profile")
    fi
    mkdir -p "$CARGO_TARGET_DIR"
    printf '%s' "$checkout" >"$owner"
}

# Must be called before anything long-lived starts: children inherit the lock.
unlock_cache() {
    exec 9>&-
}
