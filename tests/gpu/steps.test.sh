#!/usr/bin/env bash
# A step that fails, hangs or cannot run is reported, and the next one runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/out deadline=$((SECONDS + 60))
mkdir "$out"
# shellcheck source=tests/gpu/steps.sh
. "$here/steps.sh"

{
  step works 10 log echo fine
  step fails 10 log bash -c 'echo broken; exit 3'
  # It ignores SIGTERM, and so does the process that it waits for.
  step hangs 1 log bash -c 'trap "" TERM; echo waits; sleep 300; sleep 300'
  step "cannot run" 10 log bash -c 'echo no such program; exit 77'
  step again 10 log echo fine
  deadline=$SECONDS
  step late 10 log echo never
} > "$work/said"

expect() { grep -qE "$1" "$2" || { echo "steps.test.sh: no line is like \"$1\" in:" >&2; cat "$2" >&2; exit 1; }; }
expect '^works +ok \(0 s\)' "$work/said"
expect '^fails +FAILED with exit code 3, see log' "$work/said"
expect '^hangs +TIMED OUT after 1 s \(4 s\)' "$work/said"
expect '^cannot run +not run: no such program' "$work/said"
expect '^again +ok' "$work/said"
expect '^late +NOT RUN: no time was left' "$work/said"
expect $'^hangs\tTIMED OUT after 1 s\t[0-9]+$' "$work/status.tsv"
expect '^broken$' "$out/log"
[ "$(wc -l < "$work/status.tsv")" = 6 ]
if grep -q never "$out/log"; then exit 1; fi
# SIGKILL to the group reaches what the command started.
if pgrep -f '^sleep 300$' -g "$$" > /dev/null; then
  echo "steps.test.sh: a process of the step that hung is left" >&2
  exit 1
fi
echo "steps.test.sh: ok"
