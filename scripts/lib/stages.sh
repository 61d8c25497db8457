# shellcheck shell=bash
# Named, timed stages, and one summary at the end.

stages_wanted=''
stages_summary=''
stages_failed=0
stages_log=''
stage_result=''

# A pipe hides the terminal from cargo.
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
fi

# begin_stages NAME...: without a name, all of them.
begin_stages() {
    stages_wanted=$*
    stages_log=$(mktemp)
    trap 'rm -f "$stages_log"' EXIT
}

# stage NAME WHAT COMMAND...: runs it unless other stages were asked for. A failure is remembered, not returned.
stage() {
    local name=$1 what=$2 started=$SECONDS
    shift 2
    stage_result=skipped
    [[ -z $stages_wanted || " $stages_wanted " == *" $name "* ]] || return 0
    say "$name: $what"
    # What the stage prints is both shown and kept: the number of tests is read from it.
    if "$@" 2>&1 | tee -a "$stages_log"; then
        stage_result=passed
    else
        stage_result=FAILED
        stages_failed=$((stages_failed + 1))
    fi
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
    skipped=$(count_tests 'ignored|skipped')
    say "summary"
    printf '%s' "$stages_summary"
    ((stages_failed == 0)) || printf 'failed stages: %d, their messages are above\n' "$stages_failed"
    printf 'total: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    exit "$((stages_failed > 0))"
}

count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$stages_log" | grep -E '^test result: |^=+ .* in [0-9.]+s' | grep -oE "[0-9]+ ($1)\b" |
        awk '{ sum += $1 } END { print sum + 0 }' || true
}
