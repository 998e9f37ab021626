#!/usr/bin/env bash
# Compares the stand-in for cuDNN with the real cuDNN, without a GPU: see contract.py. Run it by hand when the stand-in or the
# version of cuDNN changes; .ci/run does not, because of the download.
#
# What it needs, and what it downloads: see setup.sh. With cuDNN installed, it takes 15 seconds.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --quiet --locked -p forebay-standin
root=$(cd ../../.. && pwd)
. ./setup.sh
exec "$python" contract.py "${CARGO_TARGET_DIR:-$root/target}/debug/libforebay_standin.so"
