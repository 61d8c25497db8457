# shellcheck shell=bash
# Named, timed stages, and one summary at the end.

stages_wanted=''
stages_summary=''
stages_failed=0
stages_log=''
stages_count=0
stages_begun=0
stage_result=''

# A pipe hides the terminal from cargo.
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
fi

# begin_stages NAME...: without a name, all of them. What runs the binaries builds them first.
begin_stages() {
    local name
    for name in "$@"; do
        grep -qE "^stage $name " "$root/scripts/test" ||
            die "there is no stage $name" "the stages are: $(all_stages | paste -sd ' ')"
    done
    stages_wanted=$*
    [[ " $stages_wanted " =~ " rust "|" clients "|" platform " ]] && stages_wanted+=' build'
    for name in $(all_stages); do
        ! is_wanted "$name" || stages_count=$((stages_count + 1))
    done
    stages_log=$(mktemp)
    trap 'rm -f "$stages_log"' EXIT
}

all_stages() {
    sed -n 's/^stage \([a-z-]*\) .*/\1/p' "$root/scripts/test"
}

is_wanted() {
    [[ -z $stages_wanted || " $stages_wanted " == *" $1 "* ]]
}

# stage NAME WHAT COMMAND...: runs it unless other stages were asked for. A failure is remembered, not returned.
stage() {
    local name=$1 what=$2 started=$SECONDS progress_pid
    shift 2
    stage_result=skipped
    is_wanted "$name" || return 0
    stages_begun=$((stages_begun + 1))
    say "stage $stages_begun of $stages_count, $name: $what (after $(duration "$SECONDS"))"
    start_progress "stage $stages_begun of $stages_count, $name" nothing /dev/null
    # What the stage prints is both shown and kept: the number of tests is read from it.
    if "$@" 2>&1 | tee -a "$stages_log"; then
        stage_result=passed
    else
        stage_result=FAILED
        stages_failed=$((stages_failed + 1))
    fi
    stop_progress
    stages_summary+=$(printf '%-14s %-8s %4d s' "$name" "$stage_result" $((SECONDS - started)))$'\n'
}

# stage_passed: false when the last stage failed.
stage_passed() {
    [[ $stage_result != FAILED ]]
}

# finish_stages: prints the table and the number of tests, and ends the script.
finish_stages() {
    local passed failed skipped
    # "test result: ok. 12 passed; 0 failed; 1 ignored;" of cargo, "12 passed, 1 skipped in 3.4s" of pytest.
    passed=$(count_tests 'passed')
    failed=$(count_tests 'failed|errors?')
    skipped=$(($(count_tests 'ignored|skipped') + $(count_left_out)))
    say "summary"
    printf '%s' "$stages_summary"
    ((stages_failed == 0)) || printf 'failed stages: %d, their messages are above\n' "$stages_failed"
    printf '%d s in all, preparations included\n' "$SECONDS"
    printf 'total: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    exit "$((stages_failed > 0))"
}

# What tests may leave behind when they should not: directories by our names, processes of our binaries.
leftovers() {
    find "${TMPDIR:-/tmp}" -maxdepth 1 \( -name 'rampart-*' ! -name 'rampart-ports-*' \) 2>/dev/null
    pgrep --full --list-full "^$CARGO_TARGET_DIR/debug/rampart" || true
}

remember_leftovers() {
    leftovers_before=$(leftovers)
}

# Nothing may be there now that was not there before.
check_leftovers() {
    local new
    new=$(leftovers | grep -vxF "${leftovers_before:-nothing}" || true)
    [[ -z $new ]] || printf 'left behind:\n%s\n' "$new"
    [[ -z $new ]]
}

# What a test says that it leaves out on this machine.
count_left_out() {
    grep -cE '^(test .* \.\.\. )? *SKIPPED: ' "$stages_log" || true
}

count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$stages_log" | grep -E '^test result: |^=+ .* in [0-9.]+s' | grep -oE "[0-9]+ ($1)\b" |
        awk '{ sum += $1 } END { print sum + 0 }' || true
}
