#!/bin/sh
# Measures a well-behaved trainer beside each attack of docs/threats.md, and the server's memory; see run.py. Needs
# python3, PyPI once, a machine at rest, and half an hour.
#
#     tests/attacks/run.sh --forebay BIN --loadtest BIN [options of run.py]
#
# Exit code 1: a trainer lost more than a fifth of its rate, or the server took more memory than it declares.
# Exit code 77: PyPI cannot be reached.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${FOREBAY_ATTACKS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/attacks}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
"$venv/bin/python" -c "import hpack, PIL" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" ||
    { echo "attacks: requirements.txt cannot be installed from PyPI" >&2; exit 77; }
exec "$venv/bin/python" "$here/run.py" "$@"
