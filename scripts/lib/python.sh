# shellcheck shell=bash
# Python environments: one per requirements file, made again when the file or the interpreter changes.

# Prints a python3 that can make environments: 3.11 or newer, with ensurepip, which Debian packages apart. The first one
# on PATH may be an unrelated old one.
find_python() {
    local python
    for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return 0
        fi
    done
    return 1
}

# python_environment NAME REQUIREMENTS_FILE: sets python_in to the environment's interpreter.
python_environment() {
    local name=$1 requirements=$2 python key folder
    python=$(find_python) || die "no python3 here can make environments" "install python3 (3.11 or newer) and python3-venv"
    key=$({
        "$python" -VV
        cat "$requirements"
    } | sha256sum | cut -c1-16)
    folder=$cache/python/$name-$key
    python_in=$folder/bin/python
    [[ -e $folder/complete ]] && return 0
    say "making the Python environment \"$name\" from ${requirements#"$root"/} (every file checked against its hash)"
    rm -rf "$folder"
    quietly "python3 -m venv failed" "try it by hand: $python -m venv $folder" "$python" -m venv "$folder"
    quietly "pip could not install ${requirements#"$root"/}" "check the network to PyPI, then start again" \
        "$python_in" -m pip install --disable-pip-version-check --only-binary :all: --require-hashes -r "$requirements"
    touch "$folder/complete"
}
