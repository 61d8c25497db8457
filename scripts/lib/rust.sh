# shellcheck shell=bash
# The Rust toolchain that is on the machine, and the one tool that comes as a crate.

cargo_deny_version=0.20.2

check_rust() {
    local wanted found
    wanted=$(grep -oP '^rust-version = "\K[0-9.]+' "$root/Cargo.toml")
    command -v cargo >/dev/null ||
        die "there is no cargo on PATH" "install Rust $wanted or newer, see https://www.rust-lang.org/tools/install"
    # Of rustup's proxies, cargo is there even when no toolchain is.
    found=$(cargo --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true)
    [[ -n $found ]] || die "cargo does not run" "try it by hand: cargo --version"
    printf '%s\n%s\n' "$wanted" "$found" | sort --version-sort --check=quiet ||
        die "cargo is $found, and the project needs $wanted" "update it: rustup update stable"
}

# Sets cargo_deny to the path of the tool.
provide_cargo_deny() {
    local folder=$cache/cargo-deny/$cargo_deny_version
    cargo_deny=$folder/bin/cargo-deny
    [[ -x $cargo_deny ]] && return 0
    say "building cargo-deny $cargo_deny_version, which checks licences and forbidden crates"
    quietly "cargo-deny could not be built" "try it by hand: cargo install --locked cargo-deny@$cargo_deny_version" \
        cargo install --locked --debug --root "$folder" --target-dir "$folder/build" "cargo-deny@$cargo_deny_version"
    rm -rf "$folder/build"
}
