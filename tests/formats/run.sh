#!/bin/sh
# Writes images with the libraries that people use, and compares what forebay finds; see run.py. Needs python3 and,
# once, PyPI.
#
#     tests/formats/run.sh [--forebay PATH] [--keep DIR]
#
# Exit code 77: PyPI cannot be reached.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${FOREBAY_FORMATS_VENV:-$here/../../.venv-formats}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
"$venv/bin/python" -c "import datasets, streaming, tfrecord, webdataset" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" ||
    { echo "formats: requirements.txt cannot be installed from PyPI" >&2; exit 77; }
exec "$venv/bin/python" "$here/run.py" "$@"
