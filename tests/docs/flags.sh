#!/usr/bin/env bash
# Writes docs/flags.md from the --help of the built programs, or with --check compares it.
#   tests/docs/flags.sh BIN_DIR [--check]
set -euo pipefail
bin=$(realpath "$1") check=${2:-}
cd "$(dirname "$0")/../.."

# Help depends on the environment and on the width of the terminal, so it gets neither.
help() {
  printf '\n## `%s`\n\n```text\n' "$*"
  env -i PATH=/usr/bin:/bin COLUMNS=120 "$bin/$1" "${@:2}" --help < /dev/null 2> /dev/null | sed 's/[[:space:]]*$//'
  printf '```\n'
}

write() {
  echo '# Flags'
  echo
  echo 'What `--help` prints for every command. `tests/docs/flags.sh BIN_DIR` writes this page, and `.ci/run` checks it.'
  help forebay
  for command in index inspect serve recipe 'recipe show' 'recipe diff' explain dump preview bench gpu-selftest sample-data; do
    # shellcheck disable=SC2086 # commands may have two words
    help forebay $command
  done
  help forebay-loadtest
  help forebay-trainer
  for command in train eval bench gpu-selftest; do help forebay-trainer "$command"; done
}

if [ "$check" = --check ]; then
  write | diff -u docs/flags.md - || {
    echo "docs/flags.md differs from --help: run tests/docs/flags.sh $1"
    exit 1
  }
  echo "docs/flags.md is what --help prints"
else
  write > docs/flags.md
  echo "wrote docs/flags.md"
fi
