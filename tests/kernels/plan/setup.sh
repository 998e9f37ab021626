# Sourced: installs cuDNN from PyPI once, 1.3 GB, 2.3 GB on disk, into the folder FOREBAY_CUDNN, and sets `python`, whose cuDNN can be
# loaded without a GPU. Needs python3 and a C compiler. Exit code 77 means that PyPI could not be reached.
plan=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${FOREBAY_CUDNN:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/cudnn}
python=$venv/bin/python

[ -x "$python" ] || python3 -m venv "$venv"
if ! cmp -s "$plan/requirements.txt" "$venv/installed.txt"; then
  "$python" -m pip --disable-pip-version-check --quiet install --no-cache-dir --requirement "$plan/requirements.txt" ||
    { echo "$0: cuDNN cannot be installed from PyPI" >&2; exit 77; }
  cp "$plan/requirements.txt" "$venv/installed.txt"
fi
mkdir -p "$venv/driver"
cc -shared -fPIC -o "$venv/driver/libcuda.so.1" "$plan/driver.c"
export LD_LIBRARY_PATH="$venv/driver"
