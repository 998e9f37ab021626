#!/usr/bin/env bash
# Runs a command with the stand-in in place of libcuda, libnvrtc, libcudnn, libcublas and libnccl, under the names that they have on
# a machine with CUDA 13:
#
#   tests/standin/run.sh [--ptx] [--matrix | --schedules[=LIST] | --orders] COMMAND...
#
# --ptx     interprets the PTX of the real NVRTC, which is installed from PyPI into FOREBAY_NVRTC,
#           ~/.cache/forebay/nvrtc by default. Exit code 77 means that PyPI could not be reached.
# --matrix  runs the command ten times: work lazily, eagerly and in the orders of three seeds; threads forward and in reverse.
#           The first run that fails ends the command.
# --schedules  the five of these with threads forward; --schedules="eager 1" some of them.
# --orders  the two of these with work run lazily, for single kernels.
#
# FOREBAY_STANDIN_* variables configure a single run by hand; src/config.rs lists all of them.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
ptx= matrix= schedules="lazy eager 1 2 3"
while [ $# -gt 0 ]; do
  case $1 in
    --ptx) ptx=1 ;;
    --matrix) matrix="forward reverse" ;;
    --schedules) matrix=forward ;;
    --schedules=*) matrix=forward schedules=${1#*=} ;;
    --orders) matrix="forward reverse" schedules=lazy ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }

(cd "$root" && cargo build --quiet --locked -p forebay-standin)
libraries=$target/standin/${ptx:+ptx-}lib
# With the real NVRTC never libcuda.so.1: it would load that and call functions that the stand-in lacks.
cuda=libcuda.so.1
if [ -n "$ptx" ]; then
  cuda=libcuda.so
  venv=${FOREBAY_NVRTC:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/nvrtc}
  if ! compgen -G "$venv/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12" >/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check nvidia-cuda-nvrtc-cu12==12.9.86 ||
      { echo "run.sh: NVRTC cannot be installed from PyPI" >&2; exit 77; }
  fi
  # The stand-in's libnvrtc forwards to it.
  FOREBAY_STANDIN_NVRTC=$(compgen -G "$venv/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
  export FOREBAY_STANDIN_NVRTC
fi
# Each name is a library of its own that is linked with the stand-in, because the loader knows a library by its soname.
names="$cuda libnvrtc.so.13 libcublasLt.so.13 libcublas.so.13 libcudnn.so.9 libnccl.so.2"
standin=$target/debug/libforebay_standin.so
if [ "$(cat "$libraries/names" 2>/dev/null)" != "$names $standin" ]; then
  mkdir -p "$target/standin"
  fresh=$(mktemp -d "$libraries.XXXXXX")
  for name in $names; do
    g++ -shared -nostdlib -o "$fresh/$name" -Wl,-soname,"$name" -Wl,--no-as-needed "$standin"
  done
  echo "$names $standin" >"$fresh/names"
  chmod 755 "$fresh"
  rm -rf "$libraries"
  # Another run may have been faster.
  mv -T "$fresh" "$libraries" 2>/dev/null || rm -rf "$fresh"
fi
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export FOREBAY_STANDIN_CACHE=${FOREBAY_STANDIN_CACHE:-$target/standin/kernels}

[ -n "$matrix" ] || exec "$@"
for order in $matrix; do
  for schedule in $schedules; do
    echo "run.sh: FOREBAY_STANDIN_SCHED=$schedule FOREBAY_STANDIN_ORDER=$order" >&2
    FOREBAY_STANDIN_SCHED=$schedule FOREBAY_STANDIN_ORDER=$order "$@"
  done
done
