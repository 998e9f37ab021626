#!/bin/sh
# forebay and its peers on the same files in one run; prints one table. Linux.
#     tests/bench/compare.sh [IMAGEFOLDER] [--images 512] [--rounds 5] [--json FILE]
# The folder is FOREBAY_DATA/imagenet-sample/train where it is left out. Needs Rust, a C compiler, python3,
# libjpeg-turbo with its headers (libjpeg62-turbo-dev), and once PyPI: peers go to a virtual environment
# at FOREBAY_PEERS_VENV. FFCV also needs pkg-config, libopencv-dev and libturbojpeg0-dev.
# A peer that cannot be installed is left out of the table, with the reason.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
'' | -*) set -- "${FOREBAY_DATA:?name an ImageFolder, or set FOREBAY_DATA}/imagenet-sample/train" "$@" ;;
esac

venv=${FOREBAY_PEERS_VENV:-$HOME/.cache/forebay/peers}
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && python3 -m venv "$venv"; }
while read -r packages; do
    stamp=$venv/$(echo "$packages" | cksum | tr ' ' -)
    [ ! -e "$stamp" ] || continue
    # shellcheck disable=SC2086
    if "$venv/bin/pip" install --quiet $packages; then touch "$stamp"; else echo "not installed: $packages" >&2; fi
done <"$here/peers/packages.txt"

target=${CARGO_TARGET_DIR:-$here/../../target}
cargo build --quiet --release --locked --manifest-path "$here/../../Cargo.toml" -p forebay-server
CARGO_TARGET_DIR=$target/turbo cargo build --quiet --release --locked --manifest-path "$here/turbo/Cargo.toml"
exec "$venv/bin/python" "$here/compare.py" --forebay "$target/release/forebay" --turbo "$target/turbo/release/turbo" "$@"
