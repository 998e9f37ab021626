#!/usr/bin/env bash
# Plans every convolution of ResNet-50 with the real cuDNN, without a GPU: see plan.py. Run it by hand when the calls of
# cuDNN or its version change: tests/kernels/plan/run.sh > docs/cudnn-plans.md
#
# What it needs, and what it downloads: see setup.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh
# cuDNN logs each function that driver.c lacks.
exec "$python" plan.py "$@" 2> >(grep --invert-match '^Could not load symbol' >&2)
