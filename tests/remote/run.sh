#!/usr/bin/env bash
# Measures an epoch from a bucket: from a cold cache, from half of one, from a full one, and without one; beside the
# same tars on disk. The bucket is moto (PyPI) or s3s-fs (crates.io), behind a proxy that adds a latency, and behind one
# that also cuts, throttles, delays and changes answers.
#
#   run.sh --forebay BIN --loadtest BIN [--bucket moto|s3s-fs] [--latency MS] [--per-class N] [--rounds N] [--json FILE]
#
# With --rounds N, only the rates of a server with one worker are measured, N times, and the CPU time of the bucket and
# the proxy, since either may be the bottleneck.
#
# The forebay must be built with --features remote. Images, their order and their digests are those of the local
# run, or it fails; so does a hit that is not exactly what was cached. Rates are only printed.
# Exit code 77: PyPI or crates.io cannot be reached.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

forebay='' loadtest='' bucket=moto latency=50 per_class=120 rounds=0 json=/dev/null
while [ $# -gt 0 ]; do
  case $1 in
    --forebay | --loadtest | --json) declare "${1#--}=$(realpath "$2")" && shift 2 ;;
    --bucket | --latency | --rounds) declare "${1#--}=$2" && shift 2 ;;
    --per-class) per_class=$2 && shift 2 ;;
    *) sed -n '2,14p' "$0" && exit 2 ;;
  esac
done
cache=${FOREBAY_REMOTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/remote}
venv=$cache/venv
mkdir -p "$cache"
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" || exit 77
  cp "$here/requirements.txt" "$venv/"
fi
if [ "$bucket" = s3s-fs ] && ! [ -x "$cache/bin/s3s-fs" ]; then
  cargo install --quiet --locked --root "$cache" --features binary s3s-fs@0.14.1 || exit 77
fi
PATH=$cache/bin:$venv/bin:$PATH "$venv/bin/python" "$here/epoch.py" --forebay "$forebay" --loadtest "$loadtest" \
  --bucket "$bucket" --latency "$latency" --per-class "$per_class" --rounds "$rounds" --json "$json"
