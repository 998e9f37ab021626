#!/bin/sh
# Writes images with the libraries that people use, and compares what forebay finds; see run.py. Needs python3 and,
# once, PyPI.
#
#     tests/formats/run.sh [--forebay PATH] [--keep DIR]
#
# FOREBAY_VENV names the virtual environment, which may be that of tests/parity/run.sh. Exit code 77: PyPI cannot be
# reached.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${FOREBAY_VENV:-$here/../../.venv}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
install() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
# MosaicML Streaming asks for older versions than the others and for the libraries of six clouds; its writer needs neither.
"$venv/bin/python" -c "import datasets, scipy, streaming, tfrecord, webdataset" 2>/dev/null ||
    { install --requirement "$here/requirements.txt" && install --no-deps mosaicml-streaming==0.13.0; } ||
    { echo "formats: requirements.txt cannot be installed from PyPI" >&2; exit 77; }
exec "$venv/bin/python" "$here/run.py" "$@"
