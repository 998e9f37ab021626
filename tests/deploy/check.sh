#!/usr/bin/env bash
# Checks deploy/: container files, chart, alert rules, dashboard, compose file, example configuration; then
# runs the manifests' pods with the real binaries.
#
#   check.sh [--forebay BIN --loadtest BIN [--trainer BIN]]     without binaries no pod is run
#
# Tools are installed from PyPI and Debian into a cache. Exit code 77: PyPI or Debian cannot be reached, or the
# pods cannot run because namespaces are not permitted.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${FOREBAY_DEPLOY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/deploy}
venv=$cache/venv debs=$cache/debs
here=tests/deploy chart=deploy/helm/forebay
say() { printf -- '-- %s\n' "$*"; }
unreachable() {
  echo "check.sh: $1 cannot be reached" >&2
  exit 77
}

mkdir -p "$cache"
if ! cmp -s $here/requirements.txt "$venv/requirements.txt"; then
  say "tools from PyPI"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" download --quiet --no-deps --dest "$cache/probe" PyYAML > "$cache/log" 2>&1 || unreachable PyPI
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r $here/requirements.txt
  cp $here/requirements.txt "$venv/"
fi
if ! [ -x "$debs/usr/bin/shellcheck" ]; then
  say "tools from Debian"
  rm -rf "$debs" && mkdir -p "$debs"
  (cd "$debs" && { apt-get download prometheus shellcheck || { apt-get update && apt-get download prometheus shellcheck; }; }) \
    > "$cache/log" 2>&1 || unreachable "Debian's registry"
  for package in "$debs"/*.deb; do dpkg-deb -x "$package" "$debs"; done
fi
python=$venv/bin/python

say "container file"
"$venv/bin/hadolint" deploy/Containerfile
$python $here/context.py

say "shell scripts"
"$debs/usr/bin/shellcheck" -x $here/*.sh tests/gpu/*.sh

say "chart"
$python $here/objects.py 2> "$cache/log" || { cat "$cache/log" >&2; exit 1; }

say "alert rules"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp $chart/files/alerts.yaml $here/alerts.test.yaml "$folder"
"$debs/usr/bin/promtool" check rules "$folder/alerts.yaml"
"$debs/usr/bin/promtool" test rules "$folder/alerts.test.yaml"

say "dashboard, compose file"
$python $here/documents.py
compose=$($python -c 'import compose, os; print(os.path.dirname(compose.__file__))')/docker-compose
FOREBAY_DATA=/data "$compose" -f deploy/compose.yaml --profile '*' config --format json > "$folder/compose.json"
$python $here/documents.py --compose "$folder/compose.json"

if [ $# -gt 0 ]; then
  say "pods"
  if ! unshare --net --mount --pid --fork true 2> /dev/null; then
    echo "check.sh: the pods cannot run, because unshare is not permitted here" >&2
    exit 77
  fi
  $python $here/live.py --prometheus "$debs/usr/bin/prometheus" "$@"
fi
