#!/usr/bin/env bash
# Compiles every kernel of forebay with NVIDIA's own compiler, which needs no GPU, and checks the result: see
# check.py. Needs python3 and, once, PyPI. Exit code 77: PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")"
venv=${FOREBAY_NVRTC:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/nvrtc}

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
if ! pip install --requirement requirements.txt; then
  # This tells an unreachable PyPI from an error in the list.
  if pip download --no-deps --dest "$(mktemp -d)" six 2>/dev/null; then
    echo "kernels: PyPI lacks a package or version of requirements.txt" >&2
    exit 1
  fi
  echo "kernels: PyPI cannot be reached, and $venv has no compiler" >&2
  exit 77
fi
exec "$venv/bin/python" check.py "$@"
