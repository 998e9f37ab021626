# Runs commands one after the other, each under its own limit; none stops the rest. Sourced by run.sh.
#
#   step NAME SECONDS FILE COMMAND...
#
# appends what the command prints to FILE of the folder `out`, prints one line, and adds it to `$work/status.tsv` for the summary:
# name, status, seconds. `deadline` is the value of SECONDS at which no further step is begun. A command that exits with 77 says in
# its last line why it could not run.
# shellcheck shell=bash disable=SC2154 # out, work and deadline are set by the script that sources this one

step() {
  local name=$1 limit=$2 file=$out/$3
  shift 3
  local begin=$SECONDS left=$((deadline - SECONDS)) code=0 status
  if [ "$left" -lt 3 ]; then
    report "$name" "NOT RUN: no time was left" 0
    return 0
  fi
  [ "$limit" -le "$left" ] || limit=$left
  # Without how `calls` of run.sh calls a function.
  local command=$*
  printf '\n== %s\n$ %s\n' "$name" "${command#'bash -c "$@" _ '}" >> "$file"
  # A command that does not end at SIGTERM is killed with the processes that it started.
  # The shell's own message about that says nothing new.
  { timeout --kill-after=3 "$limit" "$@" >> "$file" 2>&1 < /dev/null; } 2> /dev/null || code=$?
  case $code in
    0) status=ok ;;
    77) status="not run: $(tail -n 1 "$file")" ;;
    124 | 137) status="TIMED OUT after $limit s" ;;
    *) status="FAILED with exit code $code, see ${file##*/}" ;;
  esac
  report "$name" "$status" $((SECONDS - begin))
}

report() {
  printf '%-28s %s (%s s)\n' "$1" "$2" "$3"
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$work/status.tsv"
}
