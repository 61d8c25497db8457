# shellcheck shell=bash
# Work that takes long shows that it goes on: on a terminal by a line that updates, elsewhere by a line now and then.

# Between two of those lines, in seconds.
progress_s=${RAMPART_PROGRESS_S:-30}

# quietly WHAT WHAT_TO_DO COMMAND...: like hushed, and ends the script on failure.
quietly() {
    local what=$1 remedy=$2
    shift 2
    hushed "$@" || die "$what" "$remedy"
}

# hushed COMMAND...: runs it with its output in a file, of which the last lines are shown on failure.
hushed() {
    local log failed=0
    log=$(mktemp)
    run_with_progress "$log" "$@" || failed=$?
    if ((failed)); then
        printf '%s\n' "--- the last lines of: $*" >&2
        tail -n 25 "$log" >&2
    fi
    rm -f "$log"
    return "$failed"
}

# run_with_progress LOG COMMAND...: runs it with its output in a file. Shown are the words of the last say, the time, and what
# the function named by progress_detail makes of the file, which is its last line unless told otherwise.
run_with_progress() {
    local log=$1 status=0 progress_pid
    shift
    start_progress "$saying" "${progress_detail:-last_line}" "$log"
    "$@" >"$log" 2>&1 || status=$?
    stop_progress
    return "$status"
}

# start_progress WHAT DETAIL LOG: sets progress_pid, in whose name stop_progress ends it.
start_progress() {
    local script=$BASHPID
    # Not with the lock of the cache.
    show_progress "$script" "$@" 9>&- &
    progress_pid=$!
}

stop_progress() {
    kill "$progress_pid" 2>/dev/null || true
    wait "$progress_pid" 2>/dev/null || true
}

# show_progress SCRIPT WHAT DETAIL LOG: until it is ended, or the script's process is.
show_progress() {
    local script=$1 what=$2 detail=$3 log=$4 period=$progress_s second=0 started=$SECONDS is_updating='' never text
    [[ ! -t 1 || $detail == nothing ]] || is_updating=1 period=1
    trap '[[ -z $is_updating ]] || printf "\r\e[K"; exit' TERM
    # Nothing comes out of it: a wait that starts no process.
    exec {never}<> <(:)
    while kill -0 "$script" 2>/dev/null; do
        read -r -t 1 -u "$never" || true
        second=$((second + 1))
        ((second % period == 0)) || continue
        text="    $what: $(duration $((SECONDS - started)))$("$detail" "$log" | tr -d '\000-\037')"
        if [[ -n $is_updating ]]; then
            printf '\r\e[K%s' "${text:0:${COLUMNS:-80}-1}"
        else
            printf '%s\n' "${text:0:200}"
        fi
    done
    [[ -z $is_updating ]] || printf '\r\e[K'
}

# duration SECONDS
duration() {
    if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); fi
}

# The details: each begins with a comma, or is empty.

nothing() {
    :
}

last_line() {
    local line
    # Progress bars return to the begin of their line.
    line=$(tail --bytes 2000 "$1" 2>/dev/null | tr '\r' '\n' | sed 's/\x1b\[[0-9;?]*[a-zA-Z]//g' | grep -v '^[[:space:]]*$' | tail --lines 1 || true)
    printf '%s' "${line:+, $line}"
}

# built_images LOG: out of what BuildKit writes where there is no terminal, how many images have their name, and which step
# wrote last.
built_images() {
    awk -v images="$(all_images | wc -l)" '
        $1 !~ /^#[0-9]+$/ { next }
        $2 ~ /^\[/ { step = $0; sub(/^#[0-9]+ /, "", step); sub(/\].*/, "]", step); steps[$1] = step }
        $2 == "naming" && $3 == "to" { name = $4; sub(/:latest$/, "", name); if (!named[name]++) built++ }
        $1 in steps { said = $0; sub(/^#[0-9]+ ([0-9.]+ |\[[^]]*\] )?/, "", said); current = steps[$1] " " said }
        END { printf ", %d of %d images", built, images; if (current != "") printf ", %s", current }' "$1"
}
