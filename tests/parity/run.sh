#!/bin/sh
# Replays forebay's microbatches with timm and Pillow; see run.py. Needs python3 and, once, PyPI.
#     tests/parity/run.sh [--forebay PATH] [options of run.py]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${FOREBAY_VENV:-$here/../../.venv}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
"$venv/bin/python" -c "import grpc, grpc_tools, timm, torchvision, safetensors, xxhash" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
exec "$venv/bin/python" "$here/run.py" "$@"
