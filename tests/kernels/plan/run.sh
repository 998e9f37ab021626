#!/usr/bin/env bash
# Plans every convolution of ResNet-50 with the real cuDNN, without a GPU: see plan.py. Run it by hand when the calls of
# cuDNN or its version change: tests/kernels/plan/run.sh > docs/cudnn-plans.md
#
# Needs python3, a C compiler and, once, PyPI: 1.3 GB, 2.3 GB on disk, in the folder FOREBAY_CUDNN.
set -euo pipefail
cd "$(dirname "$0")"
venv=${FOREBAY_CUDNN:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/cudnn}

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-cache-dir --requirement requirements.txt
mkdir -p "$venv/driver"
cc -shared -fPIC -o "$venv/driver/libcuda.so.1" driver.c
export LD_LIBRARY_PATH="$venv/driver"
# cuDNN logs each function that driver.c lacks.
exec "$venv/bin/python" plan.py "$@" 2> >(grep --invert-match '^Could not load symbol' >&2)
