#!/usr/bin/env bash
# Runs a command with the stand-in in place of libcuda, libnvrtc, libcudnn, libcublas and libnccl:
#
#   tests/standin/run.sh [--ptx] [--matrix | --schedules] COMMAND...
#
# --ptx     interprets the PTX of the real NVRTC, which is installed from PyPI into FOREBAY_NVRTC,
#           ~/.cache/forebay/nvrtc by default. Exit code 77 means that PyPI could not be reached.
# --matrix  runs the command ten times: work lazily, eagerly and in the orders of three seeds; threads forward and in reverse.
#           The first run that fails ends the command.
# --schedules  the five of these with threads forward.
#
# FOREBAY_STANDIN_* variables configure a single run by hand; src/config.rs lists all of them.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
ptx= matrix=
while [ $# -gt 0 ]; do
  case $1 in
    --ptx) ptx=1 ;;
    --matrix) matrix="forward reverse" ;;
    --schedules) matrix=forward ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }

(cd "$root" && cargo build --quiet --locked -p forebay-standin)
libraries=$target/standin/${ptx:+ptx-}lib
mkdir -p "$libraries"
# Never libcuda.so.1: the real NVRTC would load it and call functions that it lacks.
for library in cuda cudnn cublas nccl; do
  ln -sfn "$target/debug/libforebay_standin.so" "$libraries/lib$library.so"
done
paths=$libraries
if [ -z "$ptx" ]; then
  ln -sfn "$target/debug/libforebay_standin.so" "$libraries/libnvrtc.so"
else
  venv=${FOREBAY_NVRTC:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/nvrtc}
  if ! compgen -G "$venv/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12" >/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check nvidia-cuda-nvrtc-cu12==12.9.86 ||
      { echo "run.sh: NVRTC cannot be installed from PyPI" >&2; exit 77; }
  fi
  nvrtc=$(dirname "$(compgen -G "$venv/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12")")
  ln -sfn "$nvrtc/libnvrtc.so.12" "$libraries/libnvrtc.so"
  paths=$libraries:$nvrtc
fi
export LD_LIBRARY_PATH=$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export FOREBAY_STANDIN_CACHE=${FOREBAY_STANDIN_CACHE:-$target/standin/kernels}

[ -n "$matrix" ] || exec "$@"
for order in $matrix; do
  for schedule in lazy eager 1 2 3; do
    echo "run.sh: FOREBAY_STANDIN_SCHED=$schedule FOREBAY_STANDIN_ORDER=$order" >&2
    FOREBAY_STANDIN_SCHED=$schedule FOREBAY_STANDIN_ORDER=$order "$@"
  done
done
