# shellcheck shell=bash
# Another commit of the project, built with optimisation beside the working tree, so that both can be measured.

# build_reference COMMIT: sets reference to a folder of the cache that has the commit's tree and, in bin, its programs.
# They stay for the next comparison with the same commit and compiler; those of another commit are removed.
build_reference() {
    local commit=$1
    reference=${cache:?}/reference/$commit
    if [[ $(cat "$reference/complete" 2>/dev/null) == "$(rustc --version)" ]]; then
        say "the programs of ${commit:0:12} are there from an earlier comparison"
        return 0
    fi
    rm -rf "$cache/reference"
    mkdir -p "$reference/tree" "$reference/bin"
    git -C "${root:?}" archive "$commit" | tar --extract --directory "$reference/tree" ||
        die "${commit:0:12} could not be taken out of git" "try it by hand: git archive $commit"
    claim_builds release "$reference/tree"
    say "building ${commit:0:12} with optimisation"
    (cd "$reference/tree" && SQLX_OFFLINE=true cargo build --locked --release --workspace --bins) ||
        die "the build of ${commit:0:12} failed" "the compiler's message is above"
    # The build of the working tree takes their place in the target folder.
    find "$CARGO_TARGET_DIR/release" -maxdepth 1 -type f -executable -name 'rampart*' -exec cp --target-directory "$reference/bin" {} +
    # Each commit pins its own ONNX Runtime.
    # shellcheck disable=SC2016 # expanded in the other shell
    root=$reference/tree bash -euo pipefail -c 'source "$root/scripts/lib/setup.sh"; provide_onnxruntime
        printf "%s\n" "$onnxruntime_library" "$onnxruntime_sha256" >"$1"' bash "$reference/onnxruntime"
    rustc --version >"$reference/complete"
}
