#!/bin/sh
# ONNX Runtime's library out of the official PyPI wheel, both pinned, and the serving configuration that names it.
set -eu

version=1.31.1
machine=$(uname -m)
case $machine in
    x86_64) sha256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3 ;;
    aarch64) sha256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467 ;;
    *) echo "no ONNX Runtime is pinned for $machine" >&2 && exit 1 ;;
esac
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
pip download --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" --requirement onnxruntime.txt
python3 -m zipfile --extract onnxruntime-*.whl wheel
mkdir /out
mv "wheel/onnxruntime/capi/libonnxruntime.so.$version" /out/libonnxruntime.so
echo "$sha256  /out/libonnxruntime.so" | sha256sum --check
cp serving.toml /out/
printf '[onnxruntime]\nlibrary = "/usr/local/lib/libonnxruntime.so"\nsha256 = "%s"\n' "$sha256" >>/out/serving.toml
