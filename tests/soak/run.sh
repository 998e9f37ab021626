#!/usr/bin/env bash
# Streams for some minutes with kills, reconnects and slow readers, and checks that the memory of the load test and
# of a third server, which is not killed, stays flat.
#
#   run.sh --forebay BIN --loadtest BIN [--minutes 4] [--report DIR]
set -euo pipefail
cd "$(dirname "$0")"

minutes=4 folder=$(mktemp -d) report=
while [ $# -gt 0 ]; do
  case $1 in
    --forebay | --loadtest | --minutes | --report) declare "${1#--}=$2" && shift 2 ;;
    *) sed -n '2,5p' run.sh && exit 2 ;;
  esac
done
report=${report:-$folder/report}
server=
trap 'kill $server 2> /dev/null || true; rm -rf "$folder"' EXIT

"$forebay" sample-data "$folder/data" --classes 10 --per-class 120 --val-per-class 1 > /dev/null
"$forebay" index "$folder/data/train" > /dev/null 2>&1
dataset=train=$folder/data/train
RUST_LOG=error "$forebay" serve --dataset "$dataset" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
  --threads 1 > "$folder/output" &
server=$!
until grep -q metrics "$folder/output"; do sleep 0.1; done
listen=$(sed -n 's/^listening on //p' "$folder/output")
metrics=$(sed -n 's/^metrics and status on //p' "$folder/output")

RUST_LOG=error "$loadtest" --spawn 2 --forebay "$forebay" --serve=--threads=1 --dataset "$dataset" \
  --endpoint "$listen" --metrics "$metrics" --batch 256 --set "image_size = 128" --prefetch 4000000 \
  --plan "8x${minutes}m" --step-time 300ms --kill-every 4s --reconnect-every 7s --slow-readers 4 --report "$report"
python3 flat.py "$report/intervals.csv"
