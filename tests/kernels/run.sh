#!/usr/bin/env bash
# Compiles every kernel of the repository with NVIDIA's own compiler, which needs no GPU, and checks what
# came out: see check.py. Needs python3 and, once, PyPI. Where PyPI cannot be reached it says so and
# checks nothing.
set -euo pipefail
cd "$(dirname "$0")"
venv=${FOREBAY_NVRTC:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/nvrtc}

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
if ! pip install --requirement requirements.txt; then
  # Whether PyPI or the list is at fault.
  if pip download --no-deps --dest "$(mktemp -d)" six 2>/dev/null; then
    echo "kernels: PyPI has not what requirements.txt names" >&2
    exit 1
  fi
  echo "kernels: NOT CHECKED, because PyPI cannot be reached and $venv has no compiler"
  exit 0
fi
exec "$venv/bin/python" check.py "$@"
