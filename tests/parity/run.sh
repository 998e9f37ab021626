#!/bin/sh
# Recomputes forebay's microbatches with timm and Pillow; see run.py. Needs python3 and, once, PyPI.
#
#     tests/parity/run.sh [--forebay PATH] [options of run.py]
#
# Exit code 77: PyPI cannot be reached.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${FOREBAY_VENV:-$here/../../.venv}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
"$venv/bin/python" -c "import grpc, grpc_tools, timm, torchvision, safetensors, xxhash" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" ||
    { echo "parity: requirements.txt cannot be installed from PyPI" >&2; exit 77; }
exec "$venv/bin/python" "$here/run.py" "$@"
