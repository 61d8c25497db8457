# shellcheck shell=bash
# What a script tells the person in front of it: steps, and on failure what happened and what to do.

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' red='' plain=''
fi

saying=''

# say TEXT: one step begins, or one fact.
say() {
    saying=$1
    printf '%s==>%s %s\n' "$bold" "$plain" "$1"
}

# die WHAT_HAPPENED WHAT_TO_DO: ends the script.
die() {
    printf '%sfailed:%s %s\n        %s\n' "$red$bold" "$plain" "$1" "$2" >&2
    exit 1
}
