# shellcheck shell=bash
# ONNX Runtime's library, out of the official PyPI wheel. Wheel and library are both pinned by SHA-256.

onnxruntime_version=1.31.1

# Otherwise it keeps a database of telemetry in ~/.cache and sends it to its maker, from Python too.
export ORT_DISABLE_TELEMETRY=1

# Sets onnxruntime_sha256 and onnxruntime_library, which may not be there yet.
name_onnxruntime() {
    local machine
    machine=$(uname -m)
    case $(uname -s)-$machine in
        Linux-x86_64) onnxruntime_sha256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3 ;;
        Linux-aarch64) onnxruntime_sha256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467 ;;
        *) die "no ONNX Runtime is pinned for $(uname -s) on $machine" "use Linux on x86_64 or aarch64" ;;
    esac
    onnxruntime_library=$cache/onnxruntime/$onnxruntime_version/libonnxruntime.so
}

# The same, and fetches the library unless it is there.
provide_onnxruntime() {
    name_onnxruntime
    [[ -e $onnxruntime_library ]] || fetch_onnxruntime "$(uname -m)"
    sha256sum --check --status <<<"$onnxruntime_sha256  $onnxruntime_library" ||
        die "$onnxruntime_library is not the library it should be (SHA-256 $onnxruntime_sha256)" \
            "find out what changed it; if that cannot be found out, delete it and start again"
}

fetch_onnxruntime() {
    local machine=$1 python folder pip_in fetched
    python=$(find_python) || die "no python3 here can make environments" "install python3 (3.11 or newer) and python3-venv"
    say "fetching ONNX Runtime $onnxruntime_version, the inference engine, from its PyPI wheel (23 MB)"
    folder=$cache/onnxruntime/fetching
    rm -rf "$folder"
    pip_in=$folder/pip/bin/python
    quietly "python3 -m venv failed" "try it by hand: python3 -m venv /tmp/venv" "$python" -m venv "$folder/pip"
    quietly "the ONNX Runtime wheel could not be fetched, or is not the pinned file" \
        "check the network to PyPI, then start again; after \"HASHES DO NOT MATCH\" do not: report it" \
        "$pip_in" -m pip download --disable-pip-version-check --dest "$folder" --require-hashes --no-deps \
        --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
        --platform "manylinux_2_28_$machine" --requirement "$root/scripts/lib/onnxruntime.txt"
    "$pip_in" -m zipfile --extract "$folder"/onnxruntime-*.whl "$folder/wheel"
    fetched=$folder/wheel/onnxruntime/capi/libonnxruntime.so.$onnxruntime_version
    sha256sum --check --status <<<"$onnxruntime_sha256  $fetched" ||
        die "the library inside the ONNX Runtime wheel is not the pinned one" "do not use it: report this"
    mkdir -p "$(dirname "$onnxruntime_library")"
    # Moved into place whole: a run that is interrupted leaves no half library behind.
    mv "$fetched" "$onnxruntime_library.part"
    mv "$onnxruntime_library.part" "$onnxruntime_library"
    rm -rf "$folder"
}
