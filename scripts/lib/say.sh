# shellcheck shell=bash
# What a script tells the person in front of it: steps, and on failure what happened and what to do.

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' red='' plain=''
fi

# say TEXT: one step begins, or one fact.
say() {
    printf '%s==>%s %s\n' "$bold" "$plain" "$1"
}

# die WHAT_HAPPENED WHAT_TO_DO: ends the script.
die() {
    printf '%sfailed:%s %s\n        %s\n' "$red$bold" "$plain" "$1" "$2" >&2
    exit 1
}

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
    "$@" >"$log" 2>&1 || failed=$?
    if ((failed)); then
        printf '%s\n' "--- the last lines of: $*" >&2
        tail -n 25 "$log" >&2
    fi
    rm -f "$log"
    return "$failed"
}
