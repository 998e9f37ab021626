#!/usr/bin/env bash
# Builds the wheel, installs it into a new virtual environment, and runs everything that must hold for it: types, tests,
# documentation, examples.
#   client/python/test.sh [--profile PROFILE] [PYTEST_ARGUMENT...]
#
# FOREBAY_VENV names a virtual environment with what the tests use (torch, timm, JAX, ...; about 7 GB), which is made
# from PyPI if it is missing; that of tests/parity/run.sh does. Exit code 77: PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")"
# What `cargo build --release` builds, unless it says otherwise.
profile=release
if [ "${1:-}" = --profile ]; then profile=$2; shift 2; fi
tools=$(realpath -m "${FOREBAY_VENV:-../../.venv}")

[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
# The list that the environment was made of, once it is complete.
made_of=$tools/forebay-python.txt
if ! cmp --quiet requirements.txt "$made_of"; then
  "$tools/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt ||
    { echo "client/python/requirements.txt cannot be installed from PyPI" >&2; exit 77; }
  cp requirements.txt "$made_of"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# As a user builds it, but with the tools that are there. Stripping takes the debug information of the profile.
PATH=$tools/bin:$PATH MATURIN_PEP517_ARGS="--profile $profile" "$tools/bin/pip" wheel --quiet --disable-pip-version-check --no-deps \
  --no-build-isolation --wheel-dir "$work" .
wheel=("$work"/forebay-*.whl)
echo "built $(basename "${wheel[0]}"), $(du -m "${wheel[0]}" | cut -f 1) MB"

# A clean environment, which sees the tools and has nothing but the wheel of its own.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps "${wheel[0]}"
"$work/venv/bin/python" -c 'import forebay; print(forebay.__doc__.splitlines()[0])'
site=$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$site" > "$own/tools.pth"
python=$work/venv/bin/python

# The types are those of the installed wheel, as for a user's program.
"$python" -m mypy --config-file pyproject.toml --cache-dir "$work/mypy" -p forebay
"$python" -m pyright --pythonpath "$python" --project pyproject.toml

"$python" -m pytest --quiet "$@" tests

# A free-threaded Python has no stable ABI, and so a wheel of its own. Where there is none, the compiler says whether that
# can be built. torch and JAX are left out: their tests are those of the same code.
free_threaded=$(command -v python3.14t || true)
if [ -n "$free_threaded" ]; then
  PATH=$tools/bin:$PATH maturin build --quiet --locked --profile "$profile" --interpreter "$free_threaded" --out "$work/free"
  "$free_threaded" -m venv "$work/free/venv"
  "$work/free/venv/bin/pip" install --quiet --disable-pip-version-check pytest numpy pillow tqdm "$work"/free/forebay-*.whl
  # A warning says that the module needs the GIL, if it does.
  "$work/free/venv/bin/python" -W error -c 'import forebay, sys; assert not sys._is_gil_enabled()'
  "$work/free/venv/bin/python" -m pytest --quiet tests
else
  printf '%s\n' implementation=CPython version=3.14 build_flags=Py_GIL_DISABLED > "$work/free-threaded"
  PYO3_CONFIG_FILE=$work/free-threaded cargo check --quiet --locked -p forebay-python
  echo "there is no python3.14t: the package was compiled for it and not run"
fi
